"use strict";
// Puts the page together, and keeps plots, table and choice in step with the budget.

const VIEW = { percentile: 90, confidence: false, limited: false, choices: new Map() };
let waiting = false;

/** Read the controls and show what follows; once a frame however often a slider moves. */
function update() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    choosing();
    drawAll(VIEW);
  });
}

function choosing() {
  const limits = readLimits();
  VIEW.percentile = limitPercentile(limits.budget);
  VIEW.limited = Object.keys(limits.typed).length > 0 || limits.budget.runtime !== "";
  VIEW.choices = new Map(
    limits.wrong.length
      ? []
      : FAMILY.boards
          .filter((board) => !board.emulated)
          .map((board) => [board, choose(board, limits.budget)]),
  );
  showChosen(limits, VIEW.choices);
  markRows(VIEW.choices);
}

function addMeasured() {
  const place = document.getElementById("measured");
  for (const board of FAMILY.boards) {
    place.append(el("h3", {}, boardTitle(board)), pairs([...board.device, ...board.conditions]));
    const notes = [...board.notes, ...board.file_notes];
    if (notes.length)
      place.append(
        el(
          "ul",
          {},
          notes.map((note) => el("li", {}, note)),
        ),
      );
  }
  place.append(
    el(
      "details",
      {},
      el("summary", {}, "The protocol"),
      FAMILY.protocol.map((text) => el("p", {}, text)),
    ),
    el("details", {}, el("summary", {}, "The family"), pairs(FAMILY.about)),
  );
}

/** How exactly accuracies are known, and the box that draws it. */
function addConfidence() {
  const between = Object.values(FAMILY.files).map((file) => file.accuracy_interval);
  if (between.every((ends) => ends !== null)) {
    const half = Math.max(...between.map(([low, high]) => (high - low) / 2));
    document.getElementById("confidence-words").textContent =
      `Accuracies are known within ${(half * 100).toFixed(1)} points (99 %, ${FAMILY.images} test images); all ` +
      "files answered the same images, so that a difference between two is surer than that. Level intervals are of " +
      "the median latency, relative to the dense model's (percentile 50); p90 and p99 are upper estimates themselves.";
  }
  document.getElementById("confidence").addEventListener("change", (event) => {
    VIEW.confidence = event.target.checked;
    drawAll(VIEW);
  });
}

/** On paper: light colours, every plot, everything unfolded. */
function addPrinting() {
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    drawAll(VIEW, true);
    for (const plot of PLOTS) Plotly.relayout(plot.place, { width: 330, height: 300 });
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    drawAll(VIEW);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(VIEW));
}

const { lead, facts, words } = FAMILY.boards[0].headline;
document.getElementById("lead").textContent = lead;
document.getElementById("facts").append(pairs(facts));
document.getElementById("words").textContent = facts.length ? "" : words;
document.getElementById("details").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close(); // on the backdrop
});
addLegend();
addLimits(update);
addTable(VIEW);
choosing();
addFronts(VIEW);
addConfidence();
addMeasured();
addPrinting();
document.documentElement.dataset.ready = "";
