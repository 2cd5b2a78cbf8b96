"use strict";
// The budget's controls, and what they choose on each board.

const STEPS = 200; // of a slider

const WANTED = {
  accuracy: "the most accurate",
  speed: "the fastest",
  size: "the smallest",
  memory: "the one with the least memory",
};

/** Build the controls; `changed` is called with the budget whenever one moves. */
function addLimits(changed) {
  const form = document.getElementById("limits"),
    measured = FAMILY.boards.filter((board) => !board.emulated);
  for (const limit of LIMITS) {
    const values = measured
      .flatMap((board) =>
        board.points.map((point, i) =>
          limit.name === "drop"
            ? Math.max(0, FAMILY.rule.dense - point.accuracy)
            : (valueOf(board, i, limit.name, 90) ?? (limit.name === "latency" ? board.costs.p50[i] : null)),
        ),
      )
      .filter((value) => value !== null);
    if (values.length && (limit.name !== "drop" || FAMILY.rule.dense > 0))
      form.append(
        control(
          limit,
          values.map((v) => v * PER_UNIT[limit.unit]),
          changed,
        ),
      );
  }
  const percentile = el(
    "select",
    { name: "percentile", change: changed },
    el("option", { value: "" }, "default"),
    Object.keys(FAMILY.percentiles).map((q) => el("option", { value: q }, q === "50" ? "50, the median" : q)),
  );
  const prefer = el(
    "select",
    { name: "prefer", change: changed },
    el("option", { value: "" }, "as the limits ask"),
    Object.entries(WANTED).map(([name, words]) => el("option", { value: name }, words)),
  );
  const runtimes = new Set(measured.flatMap((board) => board.points.map((p) => p.runtime)));
  const runtime = el(
    "select",
    { name: "runtime", change: changed },
    el("option", { value: "" }, "any"),
    [...runtimes].map((name) => el("option", { value: name }, name)),
  );
  form.append(
    el("label", { class: "row" }, "Latency's percentile", percentile),
    el("label", {}, "Take", prefer),
    el("label", {}, "Runtime", runtime),
    el("button", { type: "reset" }, "No limits"),
  );
  form.addEventListener("reset", () => setTimeout(changed));
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** A number and a slider that move together; the slider's far end is no limit. */
function control(limit, values, changed) {
  const low = Math.min(...values),
    high = Math.max(...values),
    atLeast = limit.name === "accuracy",
    ofAccuracy = OF_ACCURACY.includes(limit.name);
  const from = atLeast ? Math.max(0, low - 1) : low * 0.95,
    to = atLeast ? high : high * 1.05;
  const none = atLeast ? 0 : STEPS;
  const number = el("input", {
    type: "number",
    name: limit.name,
    step: "any",
    min: ofAccuracy ? 0 : null,
    max: ofAccuracy ? 100 : null,
    placeholder: "no limit",
    inputmode: "decimal",
  });
  const slider = el("input", {
    type: "range",
    min: 0,
    max: STEPS,
    value: none,
    "aria-label": `${limit.label}, ${limit.unit}, slider`,
  });
  slider.addEventListener("input", () => {
    const value = from + ((to - from) * slider.value) / STEPS;
    number.value = Number(slider.value) === none ? "" : Number(value.toPrecision(4));
    changed();
  });
  number.addEventListener("input", () => {
    const at = ((number.valueAsNumber - from) / (to - from)) * STEPS;
    slider.value = Number.isNaN(at) ? none : at;
    changed();
  });
  return el("div", {}, el("label", {}, `${limit.label}, ${limit.unit}`, number), slider);
}

/** {typed, budget, wrong}: the limits as typed, the budget that is meant, and why a limit is none. */
function readLimits() {
  const form = document.getElementById("limits"),
    typed = {},
    wrong = [];
  const { percentile, runtime, prefer } = form.elements;
  const budget = { percentile: Number(percentile.value) || undefined, runtime: runtime.value, prefer: prefer.value };
  for (const { name, unit, label } of LIMITS) {
    const input = form.elements[name];
    if (!input) continue;
    const value = input.valueAsNumber,
      ofAccuracy = OF_ACCURACY.includes(name),
      bad = input.validity.badInput || (ofAccuracy ? value < 0 || value > 100 : value <= 0);
    input.setCustomValidity(bad ? "not a limit" : "");
    if (bad) wrong.push(`${label}: ${ofAccuracy ? "between 0 and 100" : "a number above zero"}`);
    else if (!Number.isNaN(value)) {
      typed[name] = value;
      budget[name] = inBaseUnits(value, unit);
    }
  }
  if (meant(budget).drop !== undefined && !FAMILY.rule.dense)
    wrong.push("Set a limit: the accuracy of the dense model is not known");
  return { typed, budget: meant(budget), wrong };
}

/** Show what is chosen on every measured board. */
function showChosen({ typed, budget, wrong }, choices) {
  const used = Object.keys(typed).length > 0 || budget.runtime !== "" || budget.prefer !== "";
  document.getElementById("budget").classList.toggle("used", used);
  const boards = FAMILY.boards.filter((board) => !board.emulated);
  const chosen = wrong.length
    ? wrong.map((text) => el("p", {}, text))
    : [
        el("p", { class: "hint" }, wantedText(typed, budget)),
        ...boards.map((board) => chosenOn(board, choices.get(board), typed, budget)),
      ];
  if (!boards.length)
    chosen.push(el("p", {}, "Nothing was measured on a device, so nothing can be chosen by its speed."));
  document.getElementById("chosen").replaceChildren(...chosen);
}

/** What the limits ask for, in words. */
function wantedText(typed, budget) {
  const goal = goalOf(budget),
    by = goal === "speed" ? ` by p${rankPercentile(budget)}` : "",
    none = budget.drop !== undefined && typed.drop === undefined;
  const within = none ? `at most ${PER_UNIT.points * budget.drop} point below the dense model` : "within the limits";
  return `${none ? "Without a limit" : "Wanted"}: ${WANTED[goal]}${by}, ${within}.`;
}

function chosenOn(board, choice, typed, budget) {
  const many = FAMILY.boards.length > 1,
    part = el("div", { class: many ? "board" : "" }, many ? el("h3", {}, board.name) : null);
  if (choice.winner !== null) {
    const p = board.points[choice.winner];
    part.append(
      el(
        "p",
        {},
        el("span", { class: "won" }, `★ ${title(p)}`),
        ` ${percent(p.accuracy)} accurate. `,
        rooms(board, choice.winner, budget).map(
          (room) => `${roomText(room, budget)}: ${margin(room)} to spare. `,
        ),
        besideDense(p) ? `${besideDense(p)}.` : null,
      ),
    );
  } else if (budget.runtime && choice.broken.every((room) => room === undefined)) {
    part.append(el("p", {}, `No file was measured with ${budget.runtime} here.`));
    return part;
  } else part.append(el("p", {}, el("strong", {}, "Nothing fits the budget.")));
  if (choice.runnerUp !== null) part.append(line(board, choice.runnerUp, "Runner-up"));
  if (choice.miss)
    part.append(line(board, choice.miss.index, "Nearest miss", `, ${roomText(choice.miss.room, budget)}`));
  part.append(command(chooseCommand(board, typed, budget)));
  return part;
}

function line(board, index, words, more = "") {
  const p = board.points[index];
  return el("p", { class: "hint" }, `${words}: ${title(p)}, ${percent(p.accuracy)}${more}`);
}

function roomText({ name, unit, allowed, value }, budget) {
  if (value === null && name === "energy") return "energy was not measured";
  const q = limitPercentile(budget);
  if (value === null) return `p${q} needs ${FAMILY.percentiles[q]} samples or more`;
  const words = {
    latency: `p${q}`,
    size: "download",
    memory: "peak memory",
    energy: "energy",
    accuracy: "accuracy",
    drop: "accuracy",
  };
  const [mine, limit] = apart(value * PER_UNIT[unit], allowed * PER_UNIT[unit]);
  return `${words[name]} ${mine} ${unit} ${OF_ACCURACY.includes(name) ? "of at least" : "of"} ${limit} ${unit}`;
}

/** How far a value is from its limit: an accuracy in points, anything else as a share of the limit. */
function margin({ name, share, allowed, value }) {
  return OF_ACCURACY.includes(name) ? `${(100 * (value - allowed)).toFixed(2)} points` : `${Math.round(share * 100)} %`;
}

/** Both with as many digits as tell which of the two is larger. */
function apart(value, allowed) {
  for (let count = 4; count < 16; count += 1) {
    const texts = [value, allowed].map((v) => String(Number(v.toPrecision(count))));
    if (texts[0] !== texts[1] || value === allowed) return texts;
  }
  return [String(value), String(allowed)];
}
