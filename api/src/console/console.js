// Keeps pages up to date. Everything else works without it.
"use strict";

const language = document.documentElement.lang;
const byId = (id) => document.getElementById(id);

// Moments, when one points at them, in the reader's own zone.
function localTimes(root) {
  const exact = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "long" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = exact.format(new Date(time.dateTime));
  }
}

// Fetches the content of this page again, while it is looked at and nobody is in the middle of
// something on it.
function keepFresh() {
  const main = document.querySelector("main[data-refresh]");
  if (!main) return;
  const busy = () =>
    document.hidden ||
    main.querySelector("details[open]") ||
    main.querySelector("input:focus, select:focus, textarea:focus, button:focus") ||
    !getSelection().isCollapsed;
  let address = new URL(location.href);
  address.searchParams.delete("done");
  const refresh = async () => {
    if (busy()) return;
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      // Logged out meanwhile, or a refusal: the whole page tells.
      if (answer.redirected) return location.reload();
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("main");
      if (!fresh || busy()) return;
      localTimes(fresh);
      main.replaceChildren(...fresh.childNodes);
    } catch {
      // Not reachable for now; the next round tries again.
    }
  };
  setInterval(refresh, Number(main.dataset.refresh) * 1000);
}

const whole = new Intl.NumberFormat(language);
const short = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${short.format(bytes)} ${units[unit]}`;
}

function seconds(count) {
  if (count < 60) return `${count} s`;
  if (count < 3600) return `${Math.floor(count / 60)} min ${count % 60} s`;
  return `${Math.floor(count / 3600)} h ${Math.floor((count % 3600) / 60)} min`;
}

function showProgress(run, left) {
  const bar = byId("bar");
  if (!bar) return;
  const { done, total, unit, message } = run.progress ?? {};
  if (total > 0 && done !== undefined) {
    bar.max = total;
    bar.value = Math.min(done, total);
  } else {
    bar.removeAttribute("value");
  }
  const shown = unit === "bytes" ? size : (count) => whole.format(count);
  let figures = done === undefined ? "" : shown(done);
  if (total > 0) figures += ` / ${shown(total)}`;
  if (done !== undefined && unit && unit !== "bytes") figures += ` ${unit}`;
  if (run.percent !== null) figures += ` · ${run.percent} %`;
  byId("figures").textContent = figures;
  byId("left").textContent = run.eta_seconds === null ? "" : `≈ ${seconds(run.eta_seconds)} ${left}`;
  byId("message").textContent = message ?? "";
}

function logLine(line) {
  const item = document.createElement("li");
  item.className = line.level;
  const time = document.createElement("time");
  time.dateTime = line.at;
  time.textContent = line.at.slice(11, 19);
  const level = document.createElement("span");
  level.className = "level";
  level.textContent = line.level === "info" ? "" : line.level;
  const message = document.createElement("span");
  message.className = "message";
  message.textContent = line.message;
  const fields = Object.entries(line.fields ?? {});
  if (fields.length > 0) {
    const code = document.createElement("code");
    const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
    code.textContent = fields.map(([name, value]) => `${name}=${text(value)}`).join(" ");
    message.append(" ", code);
  }
  item.append(time, level, message);
  return item;
}

// A run that is going on: events come until it ends; then the page is made anew.
function followRun() {
  const run = byId("run");
  if (!run?.dataset.events) return;
  const connection = byId("connection");
  const live = connection.textContent;
  const log = byId("log");
  let phase = null;
  const events = new EventSource(run.dataset.events);
  events.addEventListener("open", () => {
    connection.textContent = live;
    connection.classList.remove("lost");
  });
  events.addEventListener("error", () => {
    connection.textContent = run.dataset.lost;
    connection.classList.add("lost");
    // Refused for good (logged out, too many): look at the page again, later.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 10000);
  });
  events.addEventListener("log", (event) => {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
    log.append(logLine(JSON.parse(event.data)));
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
  events.addEventListener("run", (event) => {
    const now = JSON.parse(event.data);
    showProgress(now, run.dataset.left);
    const step = `${now.state} ${now.phase} ${now.cancel_requested}`;
    // Words for states and phases are the server's.
    if (phase !== null && phase !== step) renewState();
    phase = step;
  });
  events.addEventListener("end", () => {
    events.close();
    const page = new URL(location.href);
    page.searchParams.delete("done");
    location.replace(page);
  });
  log.scrollTop = log.scrollHeight;
}

async function renewState() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["state", "phase", "jobs"]) {
      const fresh = page.getElementById(id);
      if (fresh) {
        localTimes(fresh);
        byId(id)?.replaceWith(fresh);
      }
    }
  } catch {
    // The next change, or the end, shows it.
  }
}

localTimes(document);
keepFresh();
followRun();
