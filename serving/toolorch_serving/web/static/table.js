// Tables that become lists of cards on a phone.

import { h } from "./dom.js";

/**
 * A table. `columns` is a list of {title, cell, number}: `cell` gives what shows for a row, `number` aligns it right.
 * The first column names the row. `total`, where given, is a row of plain texts at the end.
 */
export function table(caption, columns, rows, { total = null, hideCaption = true } = {}) {
  const heads = columns.map(({ title, number }) => h("th", { scope: "col", class: number ? "number" : null }, title));
  const body = rows.map((row, index) =>
    h(
      "tr",
      {},
      columns.map((column, at) => cell(column, at, column.cell(row, index))),
    ),
  );
  return h(
    "div",
    { class: "table" },
    h(
      "table",
      {},
      h("caption", { class: hideCaption ? "unseen" : null }, caption),
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, body),
      total &&
        h(
          "tfoot",
          {},
          h(
            "tr",
            {},
            columns.map((column, at) => cell(column, at, total[at])),
          ),
        ),
    ),
  );
}

function cell({ title, number }, at, content) {
  const properties = { class: number ? "number" : null, data: { title } };
  return at === 0 ? h("th", { scope: "row", ...properties }, content) : h("td", properties, content);
}
