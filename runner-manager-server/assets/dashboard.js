// Keeps the page up to date: asks for it again when the server says that something changed, and lets the
// ages grow in between. The page says the same without this script, once.
"use strict";

// Addresses are whole ones: where the page's own holds a name and a password, relative ones would, and are refused.
const here = (path) => new URL(path, window.location.origin);

const live = document.getElementById("live");

function say(text, on) {
  live.hidden = false;
  live.textContent = text;
  live.classList.toggle("off", !on);
}

function age(since, now) {
  const seconds = Math.max(0, Math.floor((now - since) / 1000));
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days > 0) return `${days}d ${hours}h`;
  if (hours > 0) return `${hours}h ${minutes}m`;
  if (minutes > 0) return `${minutes}m ${seconds % 60}s`;
  return `${seconds}s`;
}

// The server's clock counts, not this machine's.
let skew = Date.now() - Date.parse(document.getElementById("now").dateTime);

function tick() {
  for (const time of document.querySelectorAll("main time")) {
    time.textContent = age(Date.parse(time.dateTime), Date.now() - skew);
  }
}

let loading = false;
let again = false;

async function reload() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  try {
    const answer = await fetch(here("/"), { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["content", "now"]) {
      document.getElementById(id).replaceWith(document.adoptNode(page.getElementById(id)));
    }
    skew = Date.now() - Date.parse(document.getElementById("now").dateTime);
    say("live", true);
  } catch (error) {
    say(`out of date: ${error.message}`, false);
  }
  loading = false;
  if (again) {
    again = false;
    reload();
  }
}

const events = new EventSource(here("/api/v1/events"));
events.addEventListener("open", () => say("live", true));
events.addEventListener("error", () => say("not connected: this is out of date", false));
events.addEventListener("snapshot", reload);
setInterval(tick, 1000);
