"use strict";
/* Draws the overview's charts with uPlot, over the ones that the server drew, to show the numbers under the pointer. */

const CHART_HEIGHT = 150;
const drawn = [];

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const COLORS = { fresh: "--fresh", deep: "--deep", fading: "--fading", withered: "--withered" };

function inWords(unit, value) {
  if (value == null) return "–";
  if (unit === "ms") return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
  for (const [limit, sign] of [[1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (value >= limit) return `${+(value / (sign === "k" ? 1e3 : limit)).toFixed(1)}${sign}`;
  }
  return value.toLocaleString("en");
}

function options(data, width) {
  const line = color("--line");
  const ink = color("--quiet");
  const font = "11px " + getComputedStyle(document.body).fontFamily;
  const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width,
    height: CHART_HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    padding: [8, 4, 0, 0],
    legend: { live: true },
    cursor: { y: false, points: { size: 7 } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, space: 60, size: 26 },
      { ...axis, size: 52, space: 30, values: (_, values) => values.map((value) => inWords(data.unit, value)) },
    ],
    series: [
      { value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
      ...data.series.map((series) => {
        const stroke = color(COLORS[series.tone]);
        const shape = data.kind === "bars"
          ? { fill: stroke, width: 0, paths: uPlot.paths.bars({ size: [0.78, 28], radius: 0.15 }), points: { show: false } }
          : { width: 2, points: { show: data.starts.length < 40, size: 4, fill: stroke } };
        return { label: series.label, stroke, value: (_, value) => inWords(data.unit, value), ...shape };
      }),
    ],
  };
}

function draw(figure) {
  const data = JSON.parse(figure.dataset.chart);
  const place = figure.querySelector(".plot");
  const columns = [data.starts, ...data.series.map((series) => series.values)];
  figure.classList.add("alive");
  place.replaceChildren();
  const chart = new uPlot(options(data, place.clientWidth), columns, place);
  drawn.push({ chart, place });
}

function drawAll() {
  for (const { chart } of drawn.splice(0)) chart.destroy();
  document.querySelectorAll("[data-chart]").forEach(draw);
}

drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const { chart, place } of drawn) {
    if (place.clientWidth && place.clientWidth !== chart.width) chart.setSize({ width: place.clientWidth, height: CHART_HEIGHT });
  }
}).observe(document.querySelector(".charts"));
