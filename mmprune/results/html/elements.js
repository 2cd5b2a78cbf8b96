"use strict";
// Elements and words. Names are only ever set as text, so nothing in them is read as markup.

const FAMILY = JSON.parse(document.getElementById("family").textContent);
const MIB = 2 ** 20;

/** An element with attributes and children; a child that is not a node is text, null is left out. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null));
  return made;
}

/** A list of names and values. */
function pairs(rows) {
  return el(
    "dl",
    {},
    rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

/** A command with a button that copies it. */
function command(text) {
  const said = el("span", { role: "status", class: "hint" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      said.textContent = "select it and copy it by hand: the browser does not allow it here";
    }
  };
  return el(
    "p",
    { class: "command" },
    el("code", {}, text),
    el("button", { type: "button", class: "copy", click: copy }, "Copy"),
    said,
  );
}

/** Text in which plotly.js finds no markup: it reads some tags in labels, and turns entities back into characters. */
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function digits(value, count) {
  return value === null ? "-" : value.toFixed(count);
}

/** Three digits, or all before the point; "-" for what is not known. */
function short(value) {
  if (value === null || value === undefined) return "-";
  return value >= 100 ? value.toFixed(0) : value === 0 ? "0" : value.toPrecision(3);
}

function percent(share, count = 2) {
  return `${(share * 100).toFixed(count)} %`;
}

function title(point) {
  return `${point.strategy}, ${point.format} ${point.precision} with ${point.runtime}`;
}

/** The figures of one point's speed beside the dense model. */
function besideDense(point) {
  const { ratio } = point;
  if (!ratio) return null;
  const between =
    ratio.low === null || ratio.high === null ? "" : ` (${ratio.low.toFixed(3)} to ${ratio.high.toFixed(3)})`;
  const why = ratio.busy ? `: ${ratio.busy}` : "";
  return `${ratio.value.toFixed(3)}${between} of the dense model's latency: ${ratio.verdict}${why}`;
}

/** The names of a file's layers from input to output. */
function layersOf(file) {
  const known = Object.keys(FAMILY.layers).filter((name) => name in file.counted);
  return [...known, ...Object.keys(file.counted).filter((name) => !(name in FAMILY.layers))];
}
