// A destructive call waits for a person. Each call is decided by itself; refusing is what the Enter key does.

import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { json } from "./format.js";

/**
 * Ask about one call that waits. Resolves to true, false, "later" (Escape: nothing is decided) or null (stopped).
 */
export function decide(call, index, total, stopped) {
  return ask({
    title: total === 1 ? `Let it call ${call.tool}?` : `Let it call ${call.tool}? (${index + 1} of ${total})`,
    content: [
      h(
        "p",
        {},
        "This call changes or spends something, so it waits for you. It runs once if you approve, and not at all if you refuse.",
      ),
      given(call.arguments),
    ],
    buttons: [
      { label: "Refuse", value: () => false, focus: true },
      { label: `Approve ${call.tool}`, value: () => true, kind: "danger" },
      { label: "Decide later", value: () => "later", kind: "quiet" },
    ],
    escape: "later",
    until: stopped,
  });
}

function given(value) {
  const pairs = value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : null;
  if (pairs && !pairs.length) return h("p", { class: "none" }, "It has no arguments.");
  if (!pairs) return h("pre", { class: "arguments" }, json(value) || "It has no arguments.");
  const rows = pairs.map(([key, item]) => [h("dt", {}, key), h("dd", {}, json(item))]);
  return h("dl", { class: "facts" }, rows);
}
