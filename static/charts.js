"use strict";
/* Draws charts with uPlot. Without scripts there are none, and the table of their numbers stands open. */

const CHART_HEIGHT = 150;
const STEPS = [1, 2, 5].flatMap((digit) => [...Array(12).keys()].map((power) => digit * 10 ** power)).sort((a, b) => a - b);
const drawn = [];

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const COLORS = { fresh: "--fresh", deep: "--deep", fading: "--fading", withered: "--withered" };

/* A figure of an axis. */
function inWords(unit, value) {
  if (unit === "usd") {
    const dollars = value / 1e6;
    const cents = { minimumFractionDigits: dollars % 1 ? 2 : 0, maximumFractionDigits: dollars >= 1 ? 2 : dollars >= 0.01 ? 4 : 6 };
    return `$${dollars >= 1e4 ? inWords("count", dollars) : dollars.toLocaleString("en", cents)}`;
  }
  if (unit === "ms") return value < 1000 ? `${Math.round(value)} ms` : `${+(value / 1000).toFixed(1)} s`;
  for (const [limit, sign] of [[1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (value >= limit) return `${+(value / (sign === "k" ? 1e3 : limit)).toFixed(1)}${sign}`;
  }
  return value.toLocaleString("en");
}

/* Day and time of day in a zone, and how far that is from UTC: ["23 Nov", "12:00", "GMT+1"]. */
function dayAndTime(seconds, timeZone) {
  const wanted = { timeZone, day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZoneName: "short" };
  const found = new Intl.DateTimeFormat("en-US", wanted).formatToParts(new Date(seconds * 1000));
  const { day, month, hour, minute, timeZoneName } = Object.fromEntries(found.map((part) => [part.type, part.value]));
  return [`${day} ${month}`, `${hour}:${minute}`, timeZoneName];
}

/* Noon is 12:00; midnight is the day that begins. */
function timeWords(seconds, zone) {
  const [day, time] = dayAndTime(seconds, zone);
  return time === "00:00" ? day : time;
}

/* How wide the axis must be, in pixels, for its longest figure: fractions of a cent are long. */
function roomFor(_, words) {
  return Math.max(52, ...(words ?? []).map((word) => 6 * word.length + 16));
}

function made(name, text, ...classes) {
  const element = document.createElement(name);
  element.textContent = text;
  element.classList.add(...classes);
  return element;
}

/* What the table says of a period, for each series of a figure: numbers are put into words in one place. */
function wordsOf(figure, data, idx) {
  const row = figure.closest(".charts").nextElementSibling.querySelector("tbody").rows[idx];
  const first = 1 + Number(figure.dataset.column);
  return [...row.cells].slice(first, first + data.series.length).map((cell) => cell.textContent);
}

/* Says beside the crosshair what its period holds, on the side where there is more room. */
function tell(tip, figure, data, { cursor: { idx, left }, over }) {
  tip.hidden = idx == null || left < 0;
  if (tip.hidden) return;
  const words = wordsOf(figure, data, idx);
  const rows = data.series.flatMap((series, at) => {
    const label = made("span", series.label);
    label.prepend(made("i", "", series.tone));
    return [label, made("b", words[at])];
  });
  const [day, time, offset] = dayAndTime(data.starts[idx], data.zone);
  tip.replaceChildren(made("span", `${day}, ${time} ${offset}`, "at"), ...rows);
  const isRight = left > over.clientWidth / 2;
  tip.style.left = isRight ? "auto" : `${left + 12}px`;
  tip.style.right = isRight ? `${over.clientWidth - left + 12}px` : "auto";
}

/* The powers of ten of a scale. */
function powersOfTen(_, __, low, high) {
  const first = Math.round(Math.log10(low));
  return Array.from({ length: Math.round(Math.log10(high)) - first + 1 }, (_, step) => 10 ** (first + step));
}

/* On to the requests of the periods from one to another. Times are UTC, as lists have them in their addresses. */
function openRequests(figure, data, first, last) {
  const address = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16);
  const url = new URL(figure.closest("[data-requests]").dataset.requests, location);
  url.searchParams.set("from", address(data.starts[first]));
  url.searchParams.set("to", address(data.starts[last + 1] ?? data.end));
  location.assign(url);
}

/* A range was dragged over, or a period clicked on. */
function choose(figure, data, chart) {
  const { left, width } = chart.select;
  if (width > 4) openRequests(figure, data, chart.posToIdx(left), chart.posToIdx(left + width));
  else if (chart.cursor.idx != null) openRequests(figure, data, chart.cursor.idx, chart.cursor.idx);
}

function options(figure, data, width) {
  const tip = made("div", "", "tip");
  tip.hidden = true;
  const step = data.starts.length > 1 ? data.starts[1] - data.starts[0] : 3600;
  const line = color("--line");
  const ink = color("--quiet");
  const font = "11px " + getComputedStyle(document.body).fontFamily;
  const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width,
    height: CHART_HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), data.zone),
    padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      points: { size: 7 },
      // The pointer is in all of them at once; what is selected in one is selected there alone.
      sync: { key: "charts", setSeries: false, filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
      drag: { x: true, y: false, setScale: false },
      bind: { mouseup: (chart, _, then) => (event) => { then(event); if (event.button === 0) choose(figure, data, chart); return null; } },
    },
    hooks: { init: [(chart) => chart.over.append(tip)], setCursor: [(chart) => tell(tip, figure, data, chart)] },
    scales: {
      x: { range: () => [data.starts[0] - step * 0.6, data.starts.at(-1) + step * 0.6] },
      // One call of ten minutes would flatten a median of a second to the ground: durations go by powers of ten.
      y: data.kind === "lines"
        ? { distr: 3, range: (_, low, high) => uPlot.rangeLog(Math.max(1, low || 1), Math.max(10, high || 10), 10, true) }
        : { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 10] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 64, size: 26, values: (_, values) => values.map((value) => timeWords(value, data.zone)) },
      { ...axis, size: roomFor, space: 30, ...(data.kind === "lines" ? { splits: powersOfTen } : { incrs: STEPS }), values: (_, values) => values.map((value) => (value == null ? "" : inWords(data.unit, value))) },
    ],
    series: [
      {},
      ...data.series.map((series) => {
        const stroke = color(COLORS[series.tone]);
        const shape = data.kind !== "lines"
          ? { fill: stroke, width: 0, paths: uPlot.paths.bars({ size: [0.78, 28], radius: 0.15 }), points: { show: false } }
          : { width: 2, points: { show: data.starts.length < 40, size: 4, fill: stroke } };
        return { stroke, ...shape };
      }),
    ],
  };
}

/* How high each series is drawn: in a stack on top of those behind it, which are drawn after it. */
function heights({ kind, series }) {
  const values = series.map((each) => each.values);
  return kind === "stack" ? values.map((own, at) => own.map((_, period) => values.slice(at).reduce((sum, each) => sum + each[period], 0))) : values;
}

function draw(figure) {
  const data = JSON.parse(figure.dataset.chart);
  const place = figure.querySelector(".plot");
  const columns = [data.starts, ...heights(data)];
  place.replaceChildren();
  const chart = new uPlot(options(figure, data, place.clientWidth), columns, place);
  drawn.push({ chart, place });
}

function drawAll() {
  for (const { chart } of drawn.splice(0)) chart.destroy();
  document.querySelectorAll("[data-chart]").forEach(draw);
}

document.querySelectorAll(".charts").forEach((charts) => { charts.hidden = false; });
document.querySelectorAll(".charts + .numbers").forEach((table) => { table.open = false; });
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const { chart, place } of drawn) {
    if (place.clientWidth && place.clientWidth !== chart.width) chart.setSize({ width: place.clientWidth, height: CHART_HEIGHT });
  }
}).observe(document.querySelector(".charts"));
