"use strict";
// The plots of accuracy against each cost, one for each board.

const AXES = [
  { cost: "latency", title: "latency", unit: "ms" },
  { cost: "memory", title: "peak memory of the process", unit: "MiB" },
  { cost: "size", title: "download", unit: "MiB" },
  { cost: "energy", title: "energy per inference above idle", unit: "mJ" },
];
const PLOTS = []; // {place, board, axis, visible, stale: to be drawn when it is visible, clicks: whether it takes them}
const CONFIG = { displayModeBar: false, responsive: true };

/** The colours of the page, which plots and page share. */
function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["paper", "ink", "soft", "line", "won", "won-ink"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]),
  );
}

/** What every plot has in common. */
function layout(colours, x, y) {
  const axis = {
    gridcolor: colours.line,
    linecolor: colours.soft,
    zeroline: false,
    ticks: "outside",
    tickcolor: colours.line,
    fixedrange: matchMedia("(pointer: coarse)").matches,
  };
  return {
    paper_bgcolor: colours.paper,
    plot_bgcolor: colours.paper,
    showlegend: false,
    hovermode: "closest",
    font: { family: "system-ui, sans-serif", size: 12, color: colours.ink },
    margin: { l: 62, r: 15, t: 32, b: 45 }, // the winner's name stands on top
    hoverlabel: { bgcolor: colours.paper, bordercolor: colours.soft, font: { color: colours.ink }, align: "left" },
    xaxis: { ...axis, title: { text: x, standoff: 8 } },
    yaxis: { ...axis, title: { text: y, standoff: 5 } },
    dragmode: axis.fixedrange ? false : "zoom",
  };
}

/** The places of all plots; each is drawn when it comes into view. */
function addFronts(view) {
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const plot = PLOTS[target.dataset.plot];
        plot.visible = isIntersecting;
        if (plot.visible && plot.stale) drawPlot(plot, view);
      }
    },
    { rootMargin: "200px" },
  );
  FAMILY.boards.forEach((board, number) => {
    const plots = el("div", { class: "plots" });
    for (const axis of AXES) {
      const known = axis.cost === "latency" ? board.costs.p50 : board.costs[axis.cost];
      if (known === undefined || known.every((value) => value === null)) continue;
      const place = el("div", {
        class: "plot",
        role: "img",
        "data-plot": PLOTS.length,
        "aria-label": `Accuracy against ${axis.title}, ${board.name}; the table has the same figures`,
      });
      PLOTS.push({ place, board, axis, visible: false, stale: true, clicks: false });
      plots.append(place);
      seen.observe(place);
    }
    const words = number ? el("p", { class: "hint" }, board.headline.words) : null; // the first one's are on top
    document.getElementById("fronts").append(el("section", {}, el("h3", {}, boardTitle(board)), words, plots));
  });
}

function boardTitle(board) {
  return `${board.name}, ${board.date}${board.emulated ? ": emulated, so without times" : ""}`;
}

function drawPlot(plot, view) {
  const { traces, layout: frame } = figure(plot.board, plot.axis, view);
  Plotly.react(plot.place, traces, frame, CONFIG);
  plot.stale = false;
  if (plot.clicks) return;
  plot.clicks = true;
  plot.place.on("plotly_click", ({ points: [mark] }) => {
    if (mark.customdata !== undefined) openDetails(plot.board, mark.customdata, view.percentile);
  });
}

/** Draw again what is seen, and the rest when it comes into view; every plot at once if `all`. */
function drawAll(view, all = false) {
  for (const plot of PLOTS) {
    if (all || plot.visible) drawPlot(plot, view);
    else plot.stale = true;
  }
}

/** The plot's traces: for each runtime the line of its front, then its points. */
function figure(board, axis, view) {
  const colours = theme(),
    name = axis.cost === "latency" ? `p${view.percentile}` : axis.cost;
  const choice = view.choices.get(board),
    costs = board.costs[name],
    scale = PER_UNIT[axis.unit];
  const x = (i) => costs[i] * scale,
    y = (i) => board.points[i].accuracy * 100;
  const traces = [],
    notes = [],
    known = board.points.map((_, i) => i).filter((i) => costs[i] !== null);
  for (const [runtime, front] of Object.entries(board.fronts[name])) {
    const { colour, symbol } = FAMILY.runtimes[runtime];
    const indices = known.filter((i) => board.points[i].runtime === runtime);
    const onFront = new Set(front),
      fails = (i) => view.limited && choice !== undefined && choice.broken[i] !== null;
    traces.push({
      x: front.map(x),
      y: front.map(y),
      mode: "lines",
      line: { shape: "hv", color: colour, width: 1.5 },
      opacity: 0.6,
      hoverinfo: "skip",
      name: `front ${plain(runtime)}`,
    });
    traces.push({
      x: indices.map(x),
      y: indices.map(y),
      customdata: indices,
      mode: "markers",
      name: plain(runtime),
      text: indices.map((i) => hoverText(board, i)),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        color: colour,
        symbol: indices.map((i) => (onFront.has(i) ? symbol : `${symbol}-open`)),
        size: indices.map((i) => (choice?.winner === i ? 18 : board.points[i].dense ? 14 : 10)),
        opacity: indices.map((i) => (fails(i) ? 0.12 : onFront.has(i) || board.points[i].dense ? 1 : 0.5)),
        line: {
          width: indices.map((i) => (board.points[i].dense || choice?.winner === i ? 2.5 : 1.5)),
          color: indices.map((i) => (board.points[i].dense || choice?.winner === i ? colours.ink : colour)),
        },
      },
    });
    if (view.confidence)
      traces.push(
        whiskers(
          board,
          front.filter((i) => !fails(i)),
          x,
          y,
          { name, colour },
        ),
      );
  }
  if (choice && choice.winner !== null && costs[choice.winner] !== null)
    notes.push(winnerNote(plain(board.points[choice.winner].strategy), x(choice.winner), known.map(x), colours));
  const said =
    axis.cost === "latency" ? (view.percentile === 50 ? "median latency" : `p${view.percentile} latency`) : axis.title;
  const frame = layout(colours, `${said}, ${axis.unit}`, "accuracy, %");
  const all = board.points.map((_, i) => y(i)),
    low = Math.min(...all),
    room = (Math.max(...all) - low || 1) * 0.08;
  if (!view.confidence) frame.yaxis.range = [low - room, Math.max(...all) + room];
  frame.uirevision = name; // a zoom stays while limits move
  const shapes = notes.map((note) => winnerLine(note.x, colours));
  return { traces, layout: { ...frame, annotations: notes, shapes } };
}

/** The winner's name above the plot, where it covers no mark; a line leads down to it. */
function winnerNote(strategy, cost, costs, colours) {
  const low = Math.min(...costs),
    at = (cost - low) / (Math.max(...costs) - low || 1);
  return {
    x: cost,
    y: 1,
    yref: "paper",
    yanchor: "bottom",
    xanchor: at < 0.2 ? "left" : at > 0.8 ? "right" : "center",
    text: `★ ${strategy}`,
    showarrow: false,
    bgcolor: colours.won,
    font: { color: colours["won-ink"] },
    borderpad: 3,
    yshift: 4,
  };
}

function winnerLine(cost, colours) {
  const line = { color: colours["won-ink"], width: 1, dash: "dot" };
  return { type: "line", x0: cost, x1: cost, y0: 0, y1: 1, yref: "paper", layer: "below", line };
}

/** 99 % intervals: of accuracy, from the number of test images; of the median latency, as it stands to dense. */
function whiskers(board, front, x, y, { name, colour }) {
  const between = front.map((i) => FAMILY.files[board.points[i].file].accuracy_interval ?? [null, null]);
  const ratio = (i) => (name === "p50" ? board.points[i].ratio : null);
  const part = (i, end) => (ratio(i)?.low && ratio(i)?.high ? x(i) * Math.abs(ratio(i)[end] / ratio(i).value - 1) : 0);
  return {
    x: front.map(x),
    y: front.map(y),
    mode: "markers",
    hoverinfo: "skip",
    marker: { size: 1, color: colour },
    opacity: 0.5,
    error_y: {
      type: "data",
      symmetric: false,
      thickness: 1,
      width: 3,
      color: colour,
      array: between.map(([, high], k) => (high === null ? 0 : high * 100 - y(front[k]))),
      arrayminus: between.map(([low], k) => (low === null ? 0 : y(front[k]) - low * 100)),
    },
    error_x: {
      type: "data",
      symmetric: false,
      thickness: 1,
      width: 3,
      color: colour,
      array: front.map((i) => part(i, "high")),
      arrayminus: front.map((i) => part(i, "low")),
    },
  };
}

function hoverText(board, i) {
  const p = board.points[i],
    costs = board.costs;
  const lines = [title(p), `${percent(p.accuracy)} accurate, ${percent(p.sparsity, 1)} zeros`];
  if (costs.p50) lines.push(`p50 ${short(costs.p50[i] * 1e3)} ms, p90 ${short(costs.p90[i] && costs.p90[i] * 1e3)} ms`);
  if (besideDense(p)) lines.push(besideDense(p));
  lines.push(`${short(costs.size[i] / MIB)} MiB to download, ${short(costs.memory[i] / MIB)} MiB of memory`);
  if (costs.energy && costs.energy[i] !== null) lines.push(`${short(costs.energy[i] * 1e3)} mJ per inference`);
  return lines.map(plain).join("<br>");
}

/** The legend, once for all plots. */
function addLegend() {
  const shapes = {
    circle: "M7 2a5 5 0 1 0 .01 0Z",
    square: "M2 2h10v10H2Z",
    "triangle-up": "M7 1 13 12H1Z",
    diamond: "M7 1 13 7 7 13 1 7Z",
    cross: "M5 1h4v4h4v4H9v4H5V9H1V5h4Z",
  };
  const mark = ({ colour, symbol }) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ width: 14, height: 14, "aria-hidden": "true" }))
      svg.setAttribute(name, value);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", shapes[symbol]);
    path.setAttribute("fill", colour);
    svg.append(path);
    return svg;
  };
  document
    .getElementById("legend")
    .append(...Object.entries(FAMILY.runtimes).map(([name, style]) => el("li", {}, mark(style), name)));
}
