// Thumbs up or down, with a comment if the person likes. It becomes a reward when the policy is retrained.

import { post } from "./api.js";
import { announce, fill, freshId, h, s } from "./dom.js";
import { problem } from "./problem.js";

const THUMB =
  "M7 10v10H4a1 1 0 0 1-1-1v-8a1 1 0 0 1 1-1zm2 0 4-7c1.4 0 2.3 1 2.1 2.4L14.6 9H19a2 2 0 0 1 2 2.4l-1.3 7A2 2 0 0 1 17.7 20H9z";

export function feedbackForm(traceId, onSent = () => {}) {
  const place = h("div", { class: "feedback" });
  const id = freshId("comment");
  const name = freshId("thumb");
  const comment = h("input", { type: "text", id, maxlength: "2000", autocomplete: "off" });
  const more = h(
    "div",
    { class: "feedback-more", hidden: true },
    h("label", { for: id }, "Comment (optional)"),
    comment,
    h("button", { type: "submit", class: "primary" }, "Send"),
  );
  const trouble = h("div", {});
  const choice = (value, label, down) =>
    h(
      "label",
      { class: "thumb" },
      h("input", { type: "radio", name, value, on: { change: () => (more.hidden = false) } }),
      s("svg", { viewBox: "0 0 24 24", class: down ? "down" : null, "aria-hidden": "true" }, s("path", { d: THUMB })),
      h("span", {}, label),
    );
  const form = h(
    "form",
    {},
    h("fieldset", {}, h("legend", {}, "Was this answer good?"), choice("1", "Good", false), choice("0", "Poor", true)),
    more,
    trouble,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const score = Number(new FormData(form).get(name));
    try {
      await post("v1/feedback", { trace_id: traceId, score, name: "user", comment: comment.value.trim() });
    } catch (error) {
      fill(trouble, problem(error));
      return;
    }
    const thanks = "Thank you. It will count when the policy is retrained.";
    fill(place, h("p", { class: "thanks", tabindex: "-1" }, h("span", { "aria-hidden": "true" }, "✓ "), thanks));
    place.firstElementChild.focus();
    announce(thanks);
    onSent();
  });
  return fill(place, form);
}
