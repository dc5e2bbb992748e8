// The message graph as a drawing: a row for each message in order of time, a lane for each branch.

import { content, shortened } from "./format.js";
import { h, roving, s } from "./dom.js";

const ROW = 2.75; // of the page's font size; the same as --row in trace.css
const LANE = 18;
const MARGIN = 14;

/**
 * Give every node a lane: the first child goes on in its parent's lane, each further one, and each root, takes the
 * leftmost lane that is free from then on. Returns {lanes: lane by index, width: lanes in all}.
 */
export function layout(nodes) {
  const children = new Map();
  for (const node of nodes)
    if (node.parent !== null) children.set(node.parent, [...(children.get(node.parent) ?? []), node.index]);
  const lanes = new Map();
  const busyUntil = []; // by lane: the last row that its branch still reaches
  const rows = new Map(nodes.map((node, row) => [node.index, row]));
  const reach = (index) => {
    let last = index;
    for (let next = children.get(last)?.[0]; next !== undefined; next = children.get(last)?.[0]) last = next;
    return rows.get(last);
  };
  for (const [row, node] of nodes.entries()) {
    const goesOn = node.parent !== null && children.get(node.parent)[0] === node.index;
    let lane = goesOn ? lanes.get(node.parent) : busyUntil.findIndex((until) => until < (rows.get(node.parent) ?? row));
    if (lane < 0) lane = busyUntil.length;
    if (!goesOn) busyUntil[lane] = reach(node.index);
    lanes.set(node.index, lane);
  }
  return { lanes, rows, width: Math.max(1, busyUntil.length) };
}

/** Draw the graph; `onChoose` gets the node that the person chooses. */
export function messageGraph(nodes, chosen, onChoose) {
  const { lanes, rows, width } = layout(nodes);
  const rowHeight = ROW * Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
  const size = { width: 2 * MARGIN + (width - 1) * LANE, height: nodes.length * rowHeight };
  const at = (index) => ({ x: MARGIN + lanes.get(index) * LANE, y: (rows.get(index) + 0.5) * rowHeight });
  const edges = nodes
    .filter((node) => node.parent !== null)
    .map((node) => s("path", { d: curve(at(node.parent), at(node.index), rowHeight) }));
  const dots = nodes.map((node) => dot(node, at(node.index)));
  const drawing = s(
    "svg",
    { ...size, viewBox: `0 0 ${size.width} ${size.height}`, class: "lanes", "aria-hidden": "true" },
    s("g", { class: "edges" }, edges),
    dots,
  );
  const list = h(
    "ol",
    {},
    nodes.map((node) => h("li", {}, row(node, lanes, width, node.index === chosen))),
  );
  const choose = (button) => {
    list.querySelector('[aria-current="true"]')?.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    onChoose(nodes.find((node) => node.index === Number(button.dataset.index)));
  };
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(button);
  });
  roving(list, "button");
  return h(
    "div",
    { class: "graph", role: "group", "aria-label": "Messages; arrow keys move between them" },
    drawing,
    list,
  );
}

function row(node, lanes, width, current) {
  const text = shortened(content(node.content), 70);
  const calls = (node.tool_calls ?? []).map((call) => call.function?.name ?? call.name).filter(Boolean);
  const says = [text, calls.length && `calls ${calls.join(", ")}`].filter(Boolean).join(" · ") || "no text";
  const place = [
    node.parent === null ? "root" : `after ${node.parent}`,
    width > 1 && `branch ${lanes.get(node.index) + 1}`,
  ]
    .filter(Boolean)
    .join(", ");
  return h(
    "button",
    {
      type: "button",
      "aria-current": current ? "true" : null,
      tabindex: current ? "0" : "-1",
      data: { index: node.index },
    },
    h(
      "span",
      { class: "row-head" },
      h("span", { class: "role" }, `${node.index} ${node.role || "prompt"}`),
      h("span", { class: "place" }, place),
    ),
    h("span", { class: "row-text" }, says),
  );
}

// Sampled messages are squares, those that the app wrote are circles, results are rings: no meaning by colour alone.
function dot(node, { x, y }) {
  if (node.turn) return s("rect", { x: x - 5, y: y - 5, width: 10, height: 10, rx: 2, class: "sampled" });
  return s("circle", { cx: x, cy: y, r: 5, class: node.role === "tool" ? "tool" : "written" });
}

function curve(from, to, height) {
  if (from.x === to.x) return `M${from.x} ${from.y}V${to.y}`;
  const bend = Math.min(height, to.y - from.y) / 2;
  return `M${from.x} ${from.y}C${from.x} ${from.y + bend} ${to.x} ${from.y + bend} ${to.x} ${from.y + 2 * bend}V${to.y}`;
}
