// What tests of the page ask Chromium: names, ids, headings, landmarks, contrast. Returns a list of problems.
() => {
  const problems = [];
  const visible = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const describe = (element) =>
    `${element.tagName.toLowerCase()}.${element.className.baseVal ?? element.className} "${element.textContent.trim().slice(0, 40)}"`;

  const labelled = (element) =>
    (element.getAttribute("aria-label") ?? "") ||
    (element.getAttribute("aria-labelledby") ?? "")
      .split(" ")
      .map((id) => document.getElementById(id)?.textContent ?? "")
      .join("") ||
    [...(element.labels ?? [])].map((label) => label.textContent).join("") ||
    element.textContent.trim();
  for (const element of document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, progress, dialog, [role]",
  )) {
    if (
      visible(element) &&
      !element.closest("[aria-hidden=true]") &&
      element.getAttribute("role") !== "status" &&
      !labelled(element).trim()
    )
      problems.push(`no name: ${describe(element)}`);
  }

  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`id twice: ${id}`);

  let last = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!visible(heading) || heading.closest("dialog")) continue;
    const level = Number(heading.tagName[1]);
    if (level > last + 1) problems.push(`heading jumps to ${level}: ${describe(heading)}`);
    last = level;
  }
  for (const [what, number] of [
    ["main", 1],
    ["header nav[aria-label]", 1],
    ["h1", 1],
  ]) {
    const found = document.querySelectorAll(what).length;
    if (found !== number) problems.push(`${found} of ${what}`);
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { r, g, b, a: a / 255 };
  };
  const over = (top, below) => ({
    r: top.r * top.a + below.r * (1 - top.a),
    g: top.g * top.a + below.g * (1 - top.a),
    b: top.b * top.a + below.b * (1 - top.a),
    a: 1,
  });
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(rgba(getComputedStyle(at).backgroundColor));
      if (layers.at(-1).a === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), rgba("Canvas"));
  };
  const luminance = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((value) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const contrast = (one, two) => {
    const [light, dark] = [luminance(one), luminance(two)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (
      !walker.currentNode.textContent.trim() ||
      seen.has(element) ||
      !visible(element) ||
      element.closest(".unseen, svg")
    )
      continue;
    seen.add(element);
    const ground = behind(element);
    const ratio = contrast(over(rgba(getComputedStyle(element).color), ground), ground);
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(2)}: ${describe(element)}`);
  }
  for (const element of document.querySelectorAll(
    "input:not([type=range], [type=radio]), select, textarea, button:not(.quiet)",
  )) {
    if (!visible(element) || getComputedStyle(element).borderStyle === "none" || element.classList.contains("sample"))
      continue;
    const ratio = contrast(rgba(getComputedStyle(element).borderTopColor), behind(element.parentElement));
    if (ratio < 3) problems.push(`contrast of the border ${ratio.toFixed(2)}: ${describe(element)}`);
  }
  return problems;
};
