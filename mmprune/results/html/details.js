"use strict";
// What is known of one file: its sizes, its zeros layer by layer, its samples, and the command that deploys it.

function openDetails(board, index, percentile) {
  const point = board.points[index],
    file = FAMILY.files[point.file],
    dialog = document.getElementById("details");
  const close = el("button", { type: "button", click: () => dialog.close(), autofocus: true }, "Close");
  dialog.replaceChildren(
    el("header", {}, el("h2", { id: "details-title" }, title(point)), close),
    el("p", { class: "hint" }, board.name),
    pairs([...accuracyRows(file), ...costRows(board, index), ...fileRows(point, file)]),
    el("h3", {}, "To deploy it"),
    ...deployment(board, index, percentile),
    ...layerParts(file),
    ...sampleParts(point),
    ...(point.notes.length + file.notes.length
      ? [
          el("h3", {}, "Notes"),
          el(
            "ul",
            {},
            [...point.notes, ...file.notes].map((note) => el("li", {}, note)),
          ),
        ]
      : []),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
  drawDetails(point, file);
}

function accuracyRows(file) {
  const between = file.accuracy_interval;
  const sure = between
    ? `, 99 % interval ${percent(between[0])} to ${percent(between[1])} from ${FAMILY.images} test images`
    : "";
  return [
    ["accuracy of this file", `${percent(file.accuracy)}${sure}`],
    ["accuracy in PyTorch", percent(file.torch_accuracy)],
    ["same answers as PyTorch", `${percent(file.agreement)}; outputs differ by ${short(file.difference)} at most`],
  ];
}

function costRows(board, i) {
  const point = board.points[i],
    { p50, p90, p99, size, memory, energy } = board.costs,
    rows = [];
  if (p50) {
    const ms = (costs) => (costs[i] === null ? "too few samples" : `${short(costs[i] * 1e3)} ms`);
    rows.push([
      "latency",
      `p50 ${ms(p50)}, p90 ${ms(p90)}, p99 ${ms(p99)}; ${point.samples} samples, threads: ${point.threads}`,
    ]);
    if (besideDense(point)) rows.push(["beside dense", besideDense(point)]);
    rows.push([
      "to start",
      `${short(point.load_s * 1e3)} ms to load, ${short(point.first_s * 1e3)} ms for the first inference`,
    ]);
  }
  rows.push(
    ["download", `${short(size[i] / MIB)} MiB, packed`],
    [
      "resident",
      `${short(memory[i] / MIB)} MiB at most, of which ${short(point.memory / MIB)} MiB beyond the imported runtime`,
    ],
  );
  if (energy && energy[i] !== null) rows.push(["energy", `${short(energy[i] * 1e3)} mJ per inference above idle`]);
  return rows;
}

function fileRows(point, file) {
  return [
    ["on disk", `${short(file.file_bytes / MIB)} MiB: ${file.files.join(", ")}`],
    ["runtime", `${point.runtime} ${point.version}`],
    ["variant", `${file.variant}: pattern ${file.pattern}, score ${file.score}`],
    ["sha256", file.sha256],
    [
      "made with",
      Object.entries(file.made_with)
        .map(([name, version]) => `${name} ${version}`)
        .join(", ") || "not recorded",
    ],
  ];
}

/** The command whose choice is this file: limits at its own costs, as few as are needed; else, which file is better. */
function deployment(board, index, percentile) {
  if (board.emulated) return [el("p", {}, "It was not measured on a device yet.")];
  const point = board.points[index],
    used = valueOf(board, index, "latency", percentile) === null ? 50 : percentile;
  const typed = {},
    budget = { percentile: used === 90 ? undefined : used, runtime: point.runtime };
  let choice = choose(board, meant(budget));
  for (const { name, unit } of LIMITS.filter((limit) => ["latency", "size", "memory"].includes(limit.name))) {
    if (choice.winner === index) break;
    typed[name] = roundedUp(valueOf(board, index, name, used) * PER_UNIT[unit]);
    budget[name] = inBaseUnits(typed[name], unit);
    choice = choose(board, meant(budget));
  }
  if (choice.winner !== index) {
    return [
      el(
        "p",
        {},
        `mmprune choose prefers ${title(board.points[choice.winner])}, `,
        "which is as accurate or more within the same limits.",
      ),
    ];
  }
  return [
    command(chooseCommand(board, typed, budget, "deploy")),
    el("p", {}, "Then, with an image of yours:"),
    command("python deploy/infer.py IMAGE"),
  ];
}

/** At least the value, with four digits. */
function roundedUp(value) {
  const step = 10 ** (Math.floor(Math.log10(value)) - 3),
    text = (Math.ceil(value / step) + 1) * step;
  return Number(text.toPrecision(5));
}

/** The layers' zeros: as a plot, and as a table of what was asked and what the file holds. */
function layerParts(file) {
  const names = layersOf(file);
  if (!names.length) return [el("h3", {}, "Zeros"), el("p", {}, "No zeros can be counted in this kind of file.")];
  const rows = names.map((name) => {
    const layer = FAMILY.layers[name],
      asked = file.asked[name];
    return el(
      "tr",
      {},
      el("td", { class: "text", title: name }, name),
      el("td", { class: "text" }, layer?.shape.join("×") ?? "-"),
      el("td", {}, layer ? layer.weights.toLocaleString("en") : "-"),
      el("td", {}, asked === undefined ? "-" : digits(asked * 100, 2)),
      el("td", {}, digits(file.counted[name] * 100, 2)),
      el("td", { class: "text" }, verdict(asked, file.counted[name], layer)),
    );
  });
  const heads = ["layer", "shape", "weights", "zeros in PyTorch %", "zeros in this file %", "audit"];
  return [
    el("h3", {}, "Zeros in each layer"),
    el("div", {
      class: "plot",
      id: "layers",
      role: "img",
      "aria-label": "zeros in each layer; the table below has the figures",
    }),
    el(
      "details",
      {},
      el("summary", {}, auditWords(file, names)),
      el(
        "div",
        { class: "wide" },
        el(
          "table",
          {},
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              heads.map((head, k) =>
                el("th", { class: k < 2 || k === 5 ? "text" : "", style: "padding:.3rem .6rem" }, head),
              ),
            ),
          ),
          el("tbody", {}, rows),
        ),
      ),
    ),
  ];
}

/** Whether a file has the zeros of its model: by the count of weights, as far as it is known. */
function lost(asked, counted, layer) {
  return asked !== undefined && asked - counted > (layer ? 0.5 / layer.weights : 1e-6);
}

function verdict(asked, counted, layer) {
  if (asked === undefined) return "not pruned";
  return lost(asked, counted, layer) ? "fewer" : "all there";
}

function auditWords(file, names) {
  const fewer = names.filter((name) => lost(file.asked[name], file.counted[name], FAMILY.layers[name])).length;
  const found = fewer
    ? `${fewer} of ${names.length} layers have fewer zeros than in PyTorch`
    : `all ${names.length} layers have the zeros they have in PyTorch`;
  return `Zeros audit: counted in this file, ${found}`;
}

function sampleParts(point) {
  if (!point.histogram) return [];
  const { slower, slowest_s: slowest } = point.histogram;
  return [
    el("h3", {}, "Its samples"),
    el(
      "div",
      { class: "plots" },
      ["samples", "turns"].map((id) =>
        el("div", {
          class: "plot",
          id,
          role: "img",
          "aria-label":
            id === "samples" ? "histogram of the latencies" : "median latency of each round in the order of time",
        }),
      ),
    ),
    el(
      "p",
      { class: "hint" },
      `Not drawn: the slowest ${slower} samples, up to ${short(slowest * 1e3)} ms. The line has the medians of the `,
      "rounds in the order of time: if it rises or falls, the device drifted.",
    ),
  ];
}

function drawDetails(point, file) {
  const colours = theme(),
    { colour } = FAMILY.runtimes[point.runtime],
    names = layersOf(file);
  if (names.length) {
    const frame = layout(colours, "layers, from input to output", "zeros, %");
    frame.xaxis.showticklabels = false;
    frame.yaxis.range = [0, 100];
    Plotly.newPlot(
      "layers",
      [
        {
          type: "bar",
          x: names.map((_, k) => k),
          y: names.map((n) => file.counted[n] * 100),
          marker: { color: colour },
          text: names.map((n) => `${plain(n)}<br>${percent(file.counted[n])} zeros`),
          textposition: "none",
          hovertemplate: "%{text}<extra></extra>",
        },
      ],
      frame,
      CONFIG,
    );
  }
  if (!point.histogram) return;
  const { low_s: low, high_s: high, counts } = point.histogram,
    width = (high - low) / counts.length;
  Plotly.newPlot(
    "samples",
    [
      {
        type: "bar",
        x: counts.map((_, k) => (low + (k + 0.5) * width) * 1e3),
        y: counts,
        width: width * 1e3,
        marker: { color: colour },
        hovertemplate: "%{y} samples at %{x:.3~g} ms<extra></extra>",
      },
    ],
    layout(colours, "latency, ms", "samples"),
    CONFIG,
  );
  const frame = layout(colours, "rounds, in the order of time", "median, ms");
  frame.yaxis.rangemode = "tozero";
  Plotly.newPlot(
    "turns",
    [
      {
        x: point.turns.map((_, k) => k + 1),
        y: point.turns.map((s) => s * 1e3),
        mode: "lines+markers",
        marker: { color: colour, size: 4 },
        line: { color: colour },
        hovertemplate: "%{y:.3~g} ms<extra></extra>",
      },
    ],
    frame,
    CONFIG,
  );
}
