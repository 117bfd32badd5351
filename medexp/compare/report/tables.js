"use strict";
// Tables: filled from texts, sorted by a click on a head, searched by a box.
const byId = id => document.getElementById(id);

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const FEWEST_TO_SEARCH = 6;
const KINDS = { better: "better", worse: "worse", "not separable": "neither", "·": "neither" };

function fill(table, sheet) {
  const bold = new Set(sheet.bold.map(String));
  const head = make("tr"), body = make("tbody");
  for (const name of sheet.columns) head.append(make("th", name, { scope: "col" }));
  sheet.rows.forEach((cells, row) => {
    const line = make("tr");
    cells.forEach((text, column) => {
      const cell = column ? make("td", text) : make("th", text, { scope: "row" });
      if (text in KINDS) cell.classList.add(KINDS[text]);
      if (bold.has(String([row, column]))) cell.classList.add("best");
      line.append(cell);
    });
    body.append(line);
  });
  const top = make("thead");
  top.append(head);
  table.replaceChildren(make("caption", sheet.title), top, body);
  equip(table);
}

// What a text sorts by: its first number, "< .001" just below .001; an undefined one comes last.
const NUMBER = /^(< )?([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?![\d.]*[a-z_])/i;

function valueOf(text) {
  const found = text.match(NUMBER);
  return found ? parseFloat(found[2]) - (found[1] ? 1e-9 : 0) : NaN;
}

function sortBy(table, column, descending) {
  const rows = [...table.tBodies[0].rows];
  const textOf = row => row.cells[column].textContent.trim();
  const isEmpty = row => ["-", ""].includes(textOf(row));
  const numeric = rows.every(row => isEmpty(row) || !Number.isNaN(valueOf(textOf(row))));
  const compare = (a, b) => numeric ? valueOf(textOf(a)) - valueOf(textOf(b))
    : textOf(a).localeCompare(textOf(b), undefined, { numeric: true });
  rows.sort((a, b) => isEmpty(a) - isEmpty(b) || (isEmpty(a) ? 0 : (descending ? -1 : 1) * compare(a, b)));
  table.tBodies[0].append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function search(table, wanted) {
  for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted.toLowerCase());
}

function equip(table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = make("button", cell.textContent, { type: "button", title: "sort" });
    button.onclick = () => sortBy(table, column, cell.getAttribute("aria-sort") === "ascending");
    cell.replaceChildren(button);
  });
  const frame = table.parentElement;
  let box = frame.previousElementSibling;
  if (!box?.matches("input[type=search]")) {
    box = make("input", "", { type: "search", placeholder: "search in this table", "aria-label": "search in the table" });
    frame.before(box);
  }
  box.hidden = table.tBodies[0].rows.length < FEWEST_TO_SEARCH;
  if (box.hidden) box.value = "";
  box.oninput = () => search(table, box.value);
  search(table, box.value);
}
