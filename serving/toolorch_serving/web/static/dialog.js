// Modal dialogs: the browser's own <dialog>, which makes the rest of the page inert, with the focus kept going round.

import { freshId, h } from "./dom.js";

/**
 * Ask a person something; resolves to the value of the button that they press, or to `escape` for Escape.
 * `buttons` is a list of {label, value, kind, check}; the one with `focus: true` has the focus first. `check`, where
 * given, returns false to keep the dialog open. `until` is a promise whose end closes the dialog with its value.
 */
export function ask({ title, content, buttons, escape, until = null }) {
  const id = freshId("dialog");
  const heading = h("h2", { id: `${id}-title` }, title);
  const body = h("div", { id: `${id}-body`, class: "dialog-body" }, content);
  return new Promise((resolve) => {
    const close = (value) => {
      if (!dialog.isConnected) return;
      dialog.close();
      dialog.remove();
      before?.isConnected && before.focus();
      resolve(value);
    };
    const row = buttons.map(({ label, value, kind, check, focus }) =>
      h(
        "button",
        { type: "button", class: kind, autofocus: focus, on: { click: () => (!check || check()) && close(value()) } },
        label,
      ),
    );
    const before = document.activeElement;
    const dialog = h(
      "dialog",
      { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-body` },
      heading,
      body,
      h("div", { class: "dialog-foot" }, row),
    );
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close(escape);
    });
    dialog.addEventListener("keydown", goRound);
    document.body.append(dialog);
    dialog.showModal();
    until?.then(close);
  });
}

// Tab from the last element goes to the first, and back, instead of to the browser's own bars.
function goRound(event) {
  if (event.key !== "Tab") return;
  const all = [...event.currentTarget.querySelectorAll("button, input, textarea, select, a[href]")].filter(
    (item) => !item.disabled,
  );
  const edge = event.shiftKey ? all[0] : all.at(-1);
  if (document.activeElement !== edge) return;
  event.preventDefault();
  (event.shiftKey ? all.at(-1) : all[0]).focus();
}
