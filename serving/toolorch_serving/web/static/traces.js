// The list of captured runs, newest first, with filters and paging. Filters stand in the address, so a list can be linked.

import { get } from "./api.js";
import { fill, freshId, h } from "./dom.js";
import { dollars, seconds, shortened, time } from "./format.js";
import { empty, loading, problem } from "./problem.js";
import { table } from "./table.js";

const PAGE = 25;
const STATUSES = {
  "": "Any",
  running: "Running",
  answered: "Answered",
  budget: "Budget ended",
  error: "Failed",
  interrupted: "Waiting",
};
const MARKS = { running: "…", answered: "✓", budget: "◔", error: "✕", interrupted: "?" };

export function tracesView(query) {
  const list = h("div", {});
  draw(list, query);
  return h("div", { class: "wide" }, h("h1", { tabindex: "-1" }, "Traces"), filters(query), list);
}

function filters(query) {
  const field = (name, label, make) => {
    const id = freshId(name);
    return h("div", { class: "field" }, h("label", { for: id }, label), make({ id, name }));
  };
  const text = (name) => (ids) =>
    h("input", { ...ids, type: "text", value: query.get(name) ?? "", autocomplete: "off" });
  const status = (ids) =>
    h(
      "select",
      ids,
      Object.entries(STATUSES).map(([value, label]) =>
        h("option", { value, selected: (query.get("status") ?? "") === value }, label),
      ),
    );
  const form = h(
    "form",
    { class: "filters", "aria-label": "Filters", role: "search" },
    field("status", "Status", status),
    field("app", "App", text("app")),
    field("thread_id", "Conversation", text("thread_id")),
    h(
      "div",
      { class: "row" },
      h("button", { type: "submit" }, "Filter"),
      [...query].length > 0 && h("a", { href: "#/traces" }, "Clear"),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = [...new FormData(form)].map(([key, value]) => [key, value.trim()]).filter(([, value]) => value);
    location.hash = `#/traces${given.length ? `?${new URLSearchParams(given)}` : ""}`;
  });
  return form;
}

async function draw(place, query) {
  fill(place, loading("the traces"));
  try {
    const { data, next } = await get("v1/traces", { limit: PAGE, ...Object.fromEntries(query) });
    if (data.length) fill(place, listing(data), pages(query, next));
    else if (query.size) fill(place, empty("No trace fits", "Loosen the filters, or clear them."));
    else
      fill(place, empty("No traces yet", "Every run that the gateway makes or proxies is captured and listed here."));
  } catch (error) {
    fill(
      place,
      problem(error, () => draw(place, query)),
    );
  }
}

function listing(data) {
  return table(
    "Traces, newest first",
    [
      {
        title: "Request",
        cell: (trace) =>
          h("a", { href: `#/traces/${encodeURIComponent(trace.id)}` }, shortened(trace.request || trace.id, 90)),
      },
      { title: "Status", cell: (trace) => statusBadge(trace.status) },
      { title: "Started", cell: (trace) => time(trace.started, true) },
      { title: "App", cell: (trace) => trace.app || "–" },
      { title: "Turns", number: true, cell: (trace) => trace.totals?.turns ?? "–" },
      { title: "Calls", number: true, cell: (trace) => trace.totals?.calls ?? "–" },
      { title: "Dollars", number: true, cell: (trace) => dollars(trace.totals?.dollars) },
      { title: "Seconds", number: true, cell: (trace) => seconds(trace.totals?.seconds) },
    ],
    data,
  );
}

export function statusBadge(status) {
  return h(
    "span",
    { class: "badge", data: { status } },
    h("span", { "aria-hidden": "true" }, MARKS[status] ?? "·", " "),
    STATUSES[status] ?? status,
  );
}

function pages(query, next) {
  const address = (before) => {
    const changed = new URLSearchParams(query);
    if (before) changed.set("before", before);
    else changed.delete("before");
    return `#/traces${changed.size ? `?${changed}` : ""}`;
  };
  return h(
    "nav",
    { class: "pages", "aria-label": "Pages" },
    query.has("before") && h("a", { class: "button", href: address(null) }, "Newest"),
    next && h("a", { class: "button", href: address(next) }, "Older"),
  );
}
