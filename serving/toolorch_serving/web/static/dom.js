// Elements from data. Text from servers goes through text nodes and attributes only, never through HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * Properties: `class`, `on: {event: listener}`, `style: {property: value}`, `data: {key: value}`; booleans set or leave
 * out an attribute; null and undefined leave it out; all else becomes an attribute.
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Make an SVG element; properties as in `h`. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

/** Append children: elements, texts, numbers, and arrays of them; null, undefined and false are left out. */
export function add(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Put children in place of all that an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, ...children);
}

/** Text that only screen readers get. */
export function unseen(text) {
  return h("span", { class: "unseen" }, text);
}

let lastId = 0;

/** An id that no other element of the page has. */
export function freshId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** Say something to screen readers, politely. The last few sentences stay, so that none is lost in a burst. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.append(h("p", {}, text));
  while (announcer.childElementCount > 8) announcer.firstElementChild.remove();
}

/** Move the focus along a row of elements with the arrow keys, Home and End; one of them is in the tab order. */
export function roving(container, selector, onFocus = () => {}) {
  const items = () => [...container.querySelectorAll(selector)];
  const choose = (item) => {
    container.querySelector(`${selector}[tabindex="0"]`)?.setAttribute("tabindex", "-1");
    item.setAttribute("tabindex", "0");
  };
  const first = container.querySelector(selector);
  if (first && !container.querySelector(`${selector}[tabindex="0"]`)) choose(first);
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) {
      choose(item);
      onFocus(item);
    }
  });
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest(selector));
    const steps = {
      ArrowRight: at + 1,
      ArrowDown: at + 1,
      ArrowLeft: at - 1,
      ArrowUp: at - 1,
      Home: 0,
      End: all.length - 1,
    };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    all[Math.min(Math.max(steps[event.key], 0), all.length - 1)].focus();
  });
}
