// Stacked bars of shares over time. Each series has a pattern besides its colour; a table says the same in numbers.

import { fill, freshId, h, roving, s } from "./dom.js";
import { count, percent, time } from "./format.js";

const SERIES = 7; // colours and patterns in charts.css; further names are summed up as "others"
const OTHERS = "others";
const PLOT = { height: 240, left: 46, bottom: 24, top: 8 };
const LABEL = 150; // pixels that a time on the axis takes

/**
 * `buckets` is a list of {start, seconds, counts: {name: number}}. Returns {element, names}: the chart with its legend
 * and a line that tells of the bar that is pointed at or focused.
 */
export function shareChart(label, buckets) {
  const names = series(buckets);
  const prefix = freshId("chart");
  const readout = h("p", { class: "readout", "aria-hidden": "true" }, "Point at a bar, or move with the arrow keys.");
  // Drawn for the width of the screen, so that its text is as large as all other text.
  const width = Math.min(1200, document.documentElement.clientWidth - 74);
  const step = (width - PLOT.left) / buckets.length;
  const bars = buckets.map((bucket, index) => bar(bucket, names, PLOT.left + index * step, step, prefix));
  const drawing = s(
    "svg",
    {
      viewBox: `0 0 ${width} ${PLOT.height}`,
      class: "chart",
      role: "group",
      "aria-label": `${label}; arrow keys move between the bars`,
    },
    s(
      "defs",
      {},
      names.map((_, index) => pattern(index, prefix)),
    ),
    axis(buckets, step, width),
    bars,
  );
  const tell = (item) => item && fill(readout, item.getAttribute("aria-label"));
  drawing.addEventListener("pointerover", (event) => tell(event.target.closest(".bar")));
  roving(drawing, ".bar", tell);
  const legend = names.map((name, index) =>
    h(
      "li",
      {},
      s(
        "svg",
        { width: 14, height: 14, "aria-hidden": "true" },
        s("rect", { width: 14, height: 14, rx: 2, fill: `url(#${prefix}-${index})` }),
      ),
      name,
    ),
  );
  return { names, element: h("div", {}, h("ul", { class: "legend" }, legend), drawing, readout) };
}

/** Names by how often they occur in all, the rarest together as "others". */
function series(buckets) {
  const totals = new Map();
  for (const { counts } of buckets)
    for (const [name, number] of Object.entries(counts)) totals.set(name, (totals.get(name) ?? 0) + number);
  const names = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a) || a.localeCompare(b));
  return names.length > SERIES ? [...names.slice(0, SERIES - 1), OTHERS] : names;
}

/** Number of a series in a bucket. */
export function numberOf(counts, name, names) {
  if (Object.hasOwn(counts, name)) return counts[name];
  if (name !== OTHERS) return 0;
  return Object.entries(counts).reduce((sum, [key, number]) => sum + (names.includes(key) ? 0 : number), 0);
}

function bar(bucket, names, x, step, prefix) {
  const all = Object.values(bucket.counts).reduce((sum, number) => sum + number, 0);
  const height = PLOT.height - PLOT.bottom - PLOT.top;
  const gap = Math.min(4, step * 0.2);
  let bottom = PLOT.height - PLOT.bottom;
  const said = [];
  const parts = names.map((name, index) => {
    const share = all ? numberOf(bucket.counts, name, names) / all : 0;
    if (!share) return null;
    said.push(`${name} ${percent(share)}`);
    bottom -= share * height;
    return s("rect", {
      x: x + gap / 2,
      y: bottom,
      width: step - gap,
      height: share * height,
      fill: `url(#${prefix}-${index})`,
      class: "part",
    });
  });
  const label = `${time(bucket.start, true)}: ${all ? `${said.join(", ")} (${count(all)} in all)` : "none"}`;
  const target = s("rect", { x, y: PLOT.top, width: step, height, class: "hit" });
  return s("g", { class: "bar", role: "img", tabindex: "-1", "aria-label": label }, target, parts);
}

function axis(buckets, step, width) {
  const height = PLOT.height - PLOT.bottom - PLOT.top;
  const lines = [0, 0.5, 1].map((share) => {
    const y = PLOT.top + (1 - share) * height;
    return [
      s("line", { x1: PLOT.left, x2: width, y1: y, y2: y }),
      s("text", { x: PLOT.left - 6, y: y + 4, "text-anchor": "end" }, percent(share)),
    ];
  });
  const every = Math.max(1, Math.ceil(LABEL / step));
  const times = buckets.map(({ start }, index) =>
    index % every === 0 && PLOT.left + index * step + LABEL <= width + 40
      ? s("text", { x: PLOT.left + index * step, y: PLOT.height - 6 }, time(start, true))
      : null,
  );
  return s("g", { class: "axis", "aria-hidden": "true" }, lines, times);
}

// Stripes of another slant and width for each series, over its colour.
function pattern(index, prefix) {
  const id = `${prefix}-${index}`;
  const slant = [0, 45, -45, 90, 0, 45, -45][index];
  const width = [0, 2, 2, 2, 2, 5, 5][index];
  return s(
    "pattern",
    { id, width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${slant})` },
    s("rect", { width: 9, height: 9, class: `series-${index}` }),
    width > 0 && s("rect", { width: 9, height: width, class: "stripe" }),
  );
}
