// Where the runs went: shares of tools, specialists and policy versions over time.

import { get } from "./api.js";
import { fill, freshId, h } from "./dom.js";
import { count, dollars, percent, time } from "./format.js";
import { numberOf, shareChart } from "./chart.js";
import { empty, loading, problem } from "./problem.js";
import { table } from "./table.js";

const HOUR = 3600;
const WINDOWS = {
  hour: { label: "Last hour", seconds: HOUR, bucket: 300 },
  day: { label: "Last 24 hours", seconds: 24 * HOUR, bucket: HOUR },
  week: { label: "Last 7 days", seconds: 168 * HOUR, bucket: 6 * HOUR },
  month: { label: "Last 30 days", seconds: 720 * HOUR, bucket: 24 * HOUR },
};

export function routingView(query) {
  const chosen = Object.hasOwn(WINDOWS, query.get("window")) ? query.get("window") : "day";
  const id = freshId("window");
  const select = h(
    "select",
    { id },
    Object.entries(WINDOWS).map(([key, { label }]) => h("option", { value: key, selected: key === chosen }, label)),
  );
  const place = h("div", {});
  select.addEventListener("change", () => {
    history.replaceState(null, "", `#/routing?window=${select.value}`);
    draw(place, WINDOWS[select.value]);
  });
  draw(place, WINDOWS[chosen]);
  return h(
    "div",
    { class: "wide" },
    h(
      "div",
      { class: "title-row" },
      h("h1", { tabindex: "-1" }, "Routing"),
      h("div", { class: "field" }, h("label", { for: id }, "Time"), select),
    ),
    place,
  );
}

async function draw(place, span) {
  fill(place, loading("the routing shares"));
  try {
    const since = Math.floor(Date.now() / 1000 / span.bucket) * span.bucket - span.seconds + span.bucket;
    const { buckets: given } = await get("v1/routing", { since, bucket: span.bucket });
    const buckets = allBuckets(given, since, span);
    if (!given.some(({ runs }) => runs))
      fill(place, empty("No runs in this time", "Ask something, or choose a longer time."));
    else
      fill(
        place,
        tiles(buckets),
        chart("Tools and specialists", buckets, "calls"),
        chart("Policy versions", buckets, "versions"),
      );
  } catch (error) {
    fill(
      place,
      problem(error, () => draw(place, span)),
    );
  }
}

// The gateway leaves out spans of time without a run; a chart over time shows them as gaps.
function allBuckets(given, since, { seconds, bucket }) {
  const known = new Map(given.map((one) => [Math.round((one.start - since) / bucket), one]));
  return Array.from(
    { length: seconds / bucket },
    (_, index) => known.get(index) ?? { start: since + index * bucket, runs: 0, dollars: 0, calls: {}, versions: {} },
  );
}

function tiles(buckets) {
  const sum = (value) => buckets.reduce((total, bucket) => total + value(bucket), 0);
  const runs = sum((bucket) => bucket.runs);
  const spent = sum((bucket) => bucket.dollars);
  const calls = sum((bucket) => Object.values(bucket.calls ?? {}).reduce((total, number) => total + number, 0));
  const facts = [
    ["Runs", count(runs)],
    ["Dollars", dollars(spent)],
    ["Dollars a run", dollars(runs ? spent / runs : null)],
    ["Calls a run", runs ? (calls / runs).toFixed(1) : "–"],
  ];
  return h(
    "dl",
    { class: "tiles" },
    facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function chart(title, buckets, key) {
  const counted = buckets.map((bucket) => ({
    start: bucket.start,
    runs: bucket.runs,
    dollars: bucket.dollars,
    counts: bucket[key] ?? {},
  }));
  if (!counted.some(({ counts }) => Object.keys(counts).length)) {
    return h(
      "section",
      { class: "card", "aria-label": title },
      h("h2", {}, title),
      h("p", { class: "none" }, "None in this time."),
    );
  }
  const { element, names } = shareChart(`Shares of ${title.toLowerCase()} over time`, counted);
  return h(
    "section",
    { class: "card", "aria-label": title },
    h("h2", {}, title),
    element,
    h("details", {}, h("summary", {}, "As a table"), numbers(title, counted, names)),
  );
}

function numbers(title, buckets, names) {
  const share = (counts, name) => {
    const all = Object.values(counts).reduce((sum, number) => sum + number, 0);
    const number = numberOf(counts, name, names);
    return number ? `${count(number)} (${percent(number / all)})` : "0";
  };
  const columns = [
    { title: "From", cell: (bucket) => time(bucket.start, true) },
    { title: "Runs", number: true, cell: (bucket) => count(bucket.runs) },
    { title: "Dollars", number: true, cell: (bucket) => dollars(bucket.dollars) },
    ...names.map((name) => ({ title: name, number: true, cell: (bucket) => share(bucket.counts, name) })),
  ];
  return table(
    `${title} over time`,
    columns,
    buckets.filter(({ runs }) => runs),
  );
}
