// An answer as paragraphs, code blocks and `code`; all else of Markdown stays as the model wrote it.

import { h } from "./dom.js";

const FENCE = /^```[^\n]*\n([\s\S]*?)(?:^```[ \t]*$|(?![\s\S]))/m;

export function prose(text) {
  const parts = [];
  let rest = text;
  for (let found = FENCE.exec(rest); found; found = FENCE.exec(rest)) {
    parts.push(...paragraphs(rest.slice(0, found.index)), h("pre", { class: "result" }, found[1].replace(/\n$/, "")));
    rest = rest.slice(found.index + found[0].length);
  }
  return h("div", { class: "prose" }, parts, paragraphs(rest));
}

function paragraphs(text) {
  return text
    .split(/\n\s*\n/)
    .filter((part) => part.trim())
    .map((part) =>
      h(
        "p",
        {},
        part
          .trim()
          .split(/(`[^`\n]+`)/)
          .map(piece),
      ),
    );
}

function piece(text) {
  return /^`[^`\n]+`$/.test(text) ? h("code", {}, text.slice(1, -1)) : text;
}
