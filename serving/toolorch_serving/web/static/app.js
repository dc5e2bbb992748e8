// The frame of the page: which view shows, and where the focus goes when it changes.

import { fill } from "./dom.js";
import { scheme } from "./session.js";
import { askView } from "./ask.js";
import { routingView } from "./routing.js";
import { settingsView } from "./settings.js";
import { traceView } from "./trace.js";
import { tracesView } from "./traces.js";
import { versionsView } from "./versions.js";

// A view is a function of the address's remaining parts and parameters that returns an element with one h1.
const VIEWS = {
  ask: { title: "Ask", draw: askView, kept: true }, // a run goes on while another view shows
  traces: { title: "Traces", draw: ([id], query) => (id ? traceView(decodeURIComponent(id)) : tracesView(query)) },
  routing: { title: "Routing", draw: (_, query) => routingView(query) },
  versions: { title: "Policy versions", draw: versionsView },
  settings: { title: "Settings", draw: settingsView },
};

const main = document.getElementById("main");
const kept = new Map();
let first = true;

function show() {
  const [path, parameters = ""] = location.hash.replace(/^#\//, "").split("?");
  const [name, ...parts] = path.split("/");
  const known = Object.hasOwn(VIEWS, name) ? name : "ask";
  const view = VIEWS[known];
  document.title = `${view.title} · Orchestrator`;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === known) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const drawn = kept.get(known) ?? view.draw(parts, new URLSearchParams(parameters));
  if (view.kept) kept.set(known, drawn);
  fill(main, drawn);
  window.scrollTo(0, 0);
  // A new view is announced by its heading; at the first load the browser reads the title itself.
  if (!first) drawn.querySelector("h1")?.focus();
  first = false;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
scheme.apply();
show();
