"use strict";
/* Comforts. Every page does its work without this file. */

/* A form goes once, however often its button is pressed. A page that comes back from the browser's memory may
   send it again, and so may one that stays because its answer is a file. */
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) return event.preventDefault();
  if (event.submitter?.hasAttribute("data-download")) return;
  form.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

for (const element of document.querySelectorAll(".js-only, [data-presets-for]")) element.hidden = false;

/* Pages are made in the reader's zone once it is known: by a cookie, which it stands in from the first page on. That
   page comes again, in it. One whose cookie is not kept, or names no zone, stays as it is. Who chose the configured
   zone, at the foot of a page, keeps it: no zone is called so. */
const CONFIGURED = "configured";

function tellZone({ zone, configured, home }) {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const keeps = (choice) => document.cookie.split("; ").includes(`admin_time_zone=${choice}`);
  const keep = (choice) => { document.cookie = `admin_time_zone=${choice}; path=${home}; max-age=31536000; samesite=lax`; };
  if (!keeps(own) && !keeps(CONFIGURED)) {
    keep(own);
    if (keeps(own) && own !== zone) return location.reload();
  }
  const [other, name] = keeps(CONFIGURED) ? [own, own] : [CONFIGURED, configured];
  const button = document.querySelector("[data-other-zone]");
  button.textContent = `Use ${name}`;
  button.hidden = name === zone || !keeps(own) && !keeps(CONFIGURED);
  button.addEventListener("click", () => { keep(other); location.reload(); });
}
if (document.body.dataset.zone) tellZone(document.body.dataset);

/* Lifetimes to choose from. */
for (const group of document.querySelectorAll("[data-presets-for]")) {
  const input = document.getElementById(group.dataset.presetsFor);
  group.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-value]");
    if (chip) input.value = chip.dataset.value;
  });
}

/* Times move on, in the words of the server's `display.relative`, by the server's clock. */
const UNITS = [[90, 1, "second"], [5400, 60, "minute"], [129600, 3600, "hour"], [1814400, 86400, "day"],
  [5184000, 604800, "week"], [63072000, 2630016, "month"], [Infinity, 31557600, "year"]];
const AHEAD_MS = Number(document.body.dataset.now) - Date.now();

function relative(seconds) {
  const length = Math.abs(seconds);
  if (length < 5) return "just now";
  const [, unit, name] = UNITS.find(([limit]) => length < limit);
  const count = Math.max(1, Math.round(length / unit));
  const words = `${count} ${name}${count === 1 ? "" : "s"}`;
  return seconds > 0 ? `in ${words}` : `${words} ago`;
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const words = relative((Date.parse(time.dateTime) - Date.now() - AHEAD_MS) / 1000);
    if (time.textContent !== words) time.textContent = words;
  }
}, 5000);

/* Filters act at once: what is chosen when it is, what is written when its field is left, for a time is whole with
   each digit. Whoever goes on to the next field finds it again on the page that comes. */
for (const form of document.querySelectorAll("form[data-at-once]")) {
  const send = (event) => {
    const next = event.relatedTarget;
    if (next?.closest("a, button, summary")) return;
    sessionStorage.setItem("focus", (next ?? event.target).id);
    form.requestSubmit();
  };
  form.addEventListener("change", (event) => {
    if (event.target.matches("select")) send(event);
  });
  form.addEventListener("focusout", (event) => {
    if (event.target.matches("input") && event.target.value !== event.target.defaultValue && document.hasFocus()) send(event);
  });
  const field = document.getElementById(sessionStorage.getItem("focus"));
  sessionStorage.removeItem("focus");
  if (field && form.contains(field)) {
    const hidden = field.closest("details");
    if (hidden) hidden.open = true;
    field.focus();
  }
}

/* Ticks or clears what can be selected on the page. */
for (const all of document.querySelectorAll("[data-select-all]")) {
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll(`[form="${all.dataset.selectAll}"]:not(:disabled)`)) box.checked = all.checked;
  });
}

/* Copy buttons. Without the clipboard (plain http) the text is selected for the keyboard. */
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    let words = "Copied";
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
    } catch {
      if (source.select) source.select();
      else window.getSelection().selectAllChildren(source);
      words = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
    }
    button.textContent = words;
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

/* Live requests: asks for the rows after the last known place of the log. */
const live = document.querySelector("[data-live]");
const rows = document.getElementById("requests");
const PAUSE_MS = 2000;
const MOST_ROWS = 200;

async function fetchRows() {
  const url = new URL(rows.dataset.tail, location);
  url.searchParams.set("after", rows.dataset.place);
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  rows.dataset.place = answer.headers.get("X-Next-Place");
  const arrived = document.createElement("template");
  arrived.innerHTML = await answer.text();
  return [...arrived.content.querySelectorAll("tr")];
}

function show(arrived) {
  if (!arrived.length) return;
  document.querySelector("[data-empty]")?.remove();
  rows.closest("table").hidden = false;
  for (const row of arrived) row.classList.add("new-row");
  rows.prepend(...arrived);
  if (rows.rows.length > MOST_ROWS) trim();
  document.querySelector("[data-live-words]").textContent = `${arrived.length} new`;
}

/* Rows that make room are a link away. */
function trim() {
  while (rows.rows.length > MOST_ROWS) rows.lastElementChild.remove();
  const last = [...rows.querySelectorAll("th a")].at(-1);
  const older = document.querySelector("[data-older]");
  const url = new URL(older.firstElementChild.href);
  url.searchParams.set("before", new URL(last.href).searchParams.get("at"));
  older.firstElementChild.href = url;
  older.hidden = false;
}

async function follow() {
  while (live.getAttribute("aria-pressed") === "true") {
    try {
      if (!document.hidden) show(await fetchRows());
    } catch {
      live.setAttribute("aria-pressed", "false");
      document.querySelector("[data-live-words]").textContent = "Live view stopped: the proxy did not answer.";
    }
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
}

if (live && rows) {
  let following = Promise.resolve();
  live.addEventListener("click", () => {
    const on = live.getAttribute("aria-pressed") !== "true";
    live.setAttribute("aria-pressed", String(on));
    if (on) following = following.then(follow);
  });
}
