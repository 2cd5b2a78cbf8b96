"use strict";
// The table of all files: sorted by any column, filtered by words, board, runtime, type and budget.

const mib = (bytes) => bytes / MIB;
const msOf = (name) => (board, i) => (board.costs[name] ? board.costs[name][i] && board.costs[name][i] * 1e3 : null);
const COLUMNS = [
  // value: what is sorted by; text: what is shown
  { head: "variant", text: (b, i) => b.points[i].strategy, words: true },
  { head: "budget", text: () => "", words: true }, // markRows fills it
  { head: "board", text: (b) => b.name, words: true, show: () => FAMILY.boards.length > 1 },
  { head: "runtime", text: (b, i) => b.points[i].runtime, words: true },
  { head: "file", text: (b, i) => `${b.points[i].format} ${b.points[i].precision}`, words: true },
  { head: "zeros %", value: (b, i) => b.points[i].sparsity * 100, digits: 1 },
  { head: "accuracy %", value: (b, i) => b.points[i].accuracy * 100, digits: 2 },
  ...["p50", "p90", "p99"].map((name) => ({ head: `${name} ms`, value: msOf(name), flag: true })),
  { head: "of dense", value: (b, i) => b.points[i].ratio?.value ?? null, digits: 3 },
  { head: "verdict", text: (b, i) => b.points[i].ratio?.verdict ?? "-", words: true },
  { head: "download MiB", value: (b, i) => mib(b.costs.size[i]) },
  { head: "file MiB", value: (b, i) => mib(FAMILY.files[b.points[i].file].file_bytes) },
  { head: "peak MiB", value: (b, i) => mib(b.costs.memory[i]) },
  { head: "model MiB", value: (b, i) => mib(b.points[i].memory) },
  {
    head: "energy mJ",
    value: msOf("energy"),
    show: () => FAMILY.boards.some((b) => b.costs.energy?.some((e) => e !== null)),
  },
];
const STATUS = 1; // the column of the budget
const ROWS = []; // {board, index, row, cells, status}

function addTable(view) {
  const columns = COLUMNS.filter((column) => column.show === undefined || column.show());
  const body = el("tbody");
  const buttons = columns.map((column, k) =>
    el("button", { type: "button", click: () => sortBy(columns, k, body, buttons) }, column.head),
  );
  const heads = columns.map((column, k) => el("th", { scope: "col", class: column.words ? "text" : "" }, buttons[k]));
  for (const board of FAMILY.boards)
    board.points.forEach((point, index) => {
      const open = el(
        "button",
        { type: "button", title: title(point), click: () => openDetails(board, index, view.percentile) },
        point.strategy,
      );
      const cells = columns.map((column, k) =>
        el("td", { class: column.words ? "text" : "" }, k ? cellText(column, board, index) : open),
      );
      const row = el(
        "tr",
        { "data-board": FAMILY.boards.indexOf(board), "data-file": point.file, "data-runtime": point.runtime },
        cells,
      );
      ROWS.push({ board, index, row, status: cells[STATUS], order: ROWS.length });
      body.append(row);
    });
  document.getElementById("table").append(el("thead", {}, el("tr", {}, heads)), body);
  if (ROWS.some(({ board, index }) => board.points[index].disturbed)) {
    document.getElementById("flag").textContent =
      "* of all samples, including those in which other programs took the CPU";
  }
  addFilters();
}

function cellText(column, board, index) {
  if (column.text) return column.text(board, index);
  const value = column.value(board, index);
  if (value === null) return "-";
  const flag = column.flag && board.points[index].disturbed ? "*" : "";
  return (column.digits === undefined ? short(value) : digits(value, column.digits)) + flag;
}

/** Sort by a column, the other way round if it is sorted by it; what is not known comes last either way. */
function sortBy(columns, k, body, buttons) {
  const head = buttons[k].parentElement,
    down = head.getAttribute("aria-sort") === "ascending";
  for (const button of buttons) button.parentElement.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const button of buttons) button.textContent = button.textContent.replace(/ [▲▼]$/, "");
  buttons[k].textContent += down ? " ▼" : " ▲";
  const column = columns[k],
    byStatus = k === STATUS;
  const value = ({ board, index, status }) =>
    byStatus ? status.textContent : column.value ? column.value(board, index) : column.text(board, index);
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.order - b.order;
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return (down ? -order : order) || a.order - b.order;
  };
  body.append(...ROWS.toSorted(compare).map(({ row }) => row));
}

function addFilters() {
  const options = (name, values) => {
    const different = [...new Set(values)];
    if (different.length < 2) return null;
    return el(
      "label",
      {},
      name,
      el(
        "select",
        { name, change: filterRows },
        el("option", { value: "" }, "all"),
        different.map((value) => el("option", { value }, value)),
      ),
    );
  };
  const every = FAMILY.boards.flatMap((board) => board.points);
  const parts = [
    el("label", {}, "Names with", el("input", { type: "search", name: "words", input: filterRows })),
    options(
      "board",
      FAMILY.boards.map((board) => board.name),
    ),
    options(
      "runtime",
      every.map((p) => p.runtime),
    ),
    options(
      "precision",
      every.map((p) => p.precision),
    ),
    el(
      "label",
      { class: "tick" },
      el("input", { type: "checkbox", name: "fitting", change: filterRows }),
      "only within the budget",
    ),
  ];
  const form = document.getElementById("filters");
  form.append(...parts.filter((part) => part !== null));
  form.addEventListener("submit", (event) => event.preventDefault());
  filterRows();
}

function filterRows() {
  const { elements } = document.getElementById("filters"),
    is = (name, value) => !elements[name]?.value || elements[name].value === value;
  const words = elements.words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const { board, index, row } of ROWS) {
    const p = board.points[index],
      text = `${p.strategy} ${p.file}`.toLowerCase();
    row.hidden = !(
      words.every((word) => text.includes(word)) &&
      is("board", board.name) &&
      is("runtime", p.runtime) &&
      is("precision", p.precision) &&
      !(elements.fitting.checked && row.classList.contains("fails"))
    );
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${ROWS.length} shown`;
}

/** Mark what the budget chooses and what fails it. */
function markRows(choices) {
  for (const { board, index, row, status } of ROWS) {
    const choice = choices.get(board),
      broken = choice?.broken[index];
    const won = choice !== undefined && choice.winner === index;
    row.className = won ? "winner" : choice !== undefined && broken !== null ? "fails" : "";
    status.textContent =
      choice === undefined
        ? "-"
        : won
          ? "★ chosen"
          : broken === null
            ? "fits"
            : broken === undefined
              ? "other runtime"
              : broken.value === null
                ? `${broken.name} unknown`
                : `${broken.name} by ${short(-100 * broken.share)} %`;
  }
  filterRows();
}
