"use strict";
// The rule of `mmprune choose`, as in mmprune/results/choose.py and ranking.py: tests/test_page_in_browser.py compares
// the two.

// What `mmprune choose` can limit: its option, the unit of the option's value, and which of a board's costs it bounds
const LIMITS = [
  { name: "latency", option: "--max-latency-ms", unit: "ms", label: "Max. latency" },
  { name: "size", option: "--max-size-mb", unit: "MiB", label: "Max. download" },
  { name: "memory", option: "--max-memory-mb", unit: "MiB", label: "Max. memory" },
  { name: "energy", option: "--max-energy-mj", unit: "mJ", label: "Max. energy" },
  { name: "accuracy", option: "--min-accuracy", unit: "%", label: "Min. accuracy" },
  { name: "drop", option: "--max-drop", unit: "points", label: "Max. drop" },
];
const OF_ACCURACY = ["accuracy", "drop"];
const PER_UNIT = { ms: 1e3, MiB: 1 / MIB, mJ: 1e3, "%": 100, points: 100 }; // base units to those that are shown

/** An option's value in base units: seconds, bytes, joules or a fraction, rounded as Python does. */
function inBaseUnits(value, unit) {
  if (unit !== "MiB") return value / PER_UNIT[unit];
  const bytes = value * MIB,
    low = Math.floor(bytes);
  if (bytes - low !== 0.5) return Math.round(bytes);
  return low % 2 ? low + 1 : low;
}

/** The budget that is meant: without a limit or a goal, so many points below dense. */
function meant(budget) {
  const limited = budget.prefer || LIMITS.some(({ name }) => budget[name] !== undefined);
  return limited ? budget : { ...budget, drop: FAMILY.rule.drop };
}

/** What is wanted: where accuracy has a limit and latency has none, speed; else accuracy. */
function goalOf(budget) {
  const bound = OF_ACCURACY.some((name) => budget[name] !== undefined);
  return budget.prefer || (bound && budget.latency === undefined ? "speed" : "accuracy");
}

/** The percentile that a limit on latency is for, and the one by which the faster is found. */
const limitPercentile = (budget) => budget.percentile ?? 90;
const rankPercentile = (budget) => budget.percentile ?? (budget.latency === undefined ? 50 : 90);

/** A point's value of a limit in base units; null if it is not known. */
function valueOf(board, index, name, percentile) {
  if (OF_ACCURACY.includes(name)) return board.points[index].accuracy;
  const costs = board.costs[name === "latency" ? `p${percentile}` : name];
  return costs === undefined ? null : costs[index];
}

/** One {name, allowed, value, share} for each limit of the budget: share is the margin, negative if it is broken. */
function rooms(board, index, budget) {
  const found = [];
  for (const { name, unit } of LIMITS.filter((limit) => budget[limit.name] !== undefined)) {
    const allowed = name === "drop" ? FAMILY.rule.dense - budget.drop : budget[name],
      value = valueOf(board, index, name, limitPercentile(budget)),
      ofAccuracy = OF_ACCURACY.includes(name);
    if (ofAccuracy && allowed <= 0) continue; // every file keeps it
    const over = value / allowed - 1,
      share = ofAccuracy ? (value < allowed - 1e-9 ? over : Math.max(0, over)) : value === null ? -Infinity : -over;
    found.push({ name, unit: name === "drop" ? "%" : unit, allowed, value, share });
  }
  return found;
}

/**
 * The best point within the budget, by its goal; among equals the most accurate, then the fastest, then the smallest.
 * budget   as `meant` returns it: {percentile, runtime, prefer, latency, size, memory, energy, accuracy, drop}; a limit
 *          that is undefined is none, and so is a percentile
 * returns  {winner, runnerUp, miss: {index, room}, broken}: indices of the board's points, or null; `broken` has the
 *          limit that each point exceeds the most, null if it fits, undefined if it is of another runtime
 */
function choose(board, budget) {
  const broken = board.points.map((point, index) => {
    if (budget.runtime && point.runtime !== budget.runtime) return undefined;
    const worst = least(rooms(board, index, budget), (room) => room.share);
    return worst !== null && worst.share < 0 ? worst : null;
  });
  const every = board.points.map((_, index) => index);
  const [winner = null, runnerUp = null] = ranked(
    board,
    every.filter((i) => broken[i] === null),
    budget,
  );
  const index = least(
    every.filter((i) => broken[i]),
    (i) => -broken[i].share,
  );
  return { winner, runnerUp, miss: index === null ? null : { index, room: broken[index] }, broken };
}

/** The two best. Equals are judged against the best remaining point, so that a chain of them cannot drift down. */
function ranked(board, indices, budget) {
  const left = [...indices],
    found = [],
    goal = goalOf(budget),
    costs = {
      accuracy: (i) => -board.points[i].accuracy,
      speed: (i) => valueOf(board, i, "latency", rankPercentile(budget)) ?? Infinity,
      size: (i) => board.costs.size[i],
      memory: (i) => board.costs.memory[i],
    },
    then = ["accuracy", "speed", "size"].filter((name) => name !== goal);
  while (left.length && found.length < 2) {
    const best = Math.min(...left.map(costs[goal]));
    let near = left.filter((i) => equal(goal, best, costs[goal](i)));
    for (const name of then) {
      const low = Math.min(...near.map(costs[name]));
      near = near.filter((i) => costs[name](i) === low);
    }
    found.push(near[0]);
    left.splice(left.indexOf(near[0]), 1);
  }
  return found;
}

/** Whether two costs are equal within what can be told, `low` the lower one. */
function equal(goal, low, other) {
  if (goal === "accuracy") return other - low < FAMILY.rule.tie;
  return goal === "size" ? low === other : other <= low * (1 + FAMILY.rule.resolution);
}

/** The first of the items with the least value; null without items. */
function least(items, value) {
  return items.reduce((best, item) => (best === null || value(item) < value(best) ? item : best), null);
}

/** The command that chooses the same on a board. `typed` has the limits in the options' units. */
function chooseCommand(board, typed, { percentile, runtime, prefer }, out = "") {
  const words = ["mmprune choose", FAMILY.family];
  for (const { name, option, unit } of LIMITS) {
    if (typed[name] !== undefined) words.push(option, `${typed[name]}${unit === "%" ? "%" : ""}`);
  }
  if (percentile !== undefined) words.push("--percentile", percentile);
  if (prefer) words.push("--prefer", prefer);
  if (runtime) words.push("--runtime", FAMILY.runtimes[runtime].word);
  if (!board.newest) words.push("--device", board.word);
  return [...words, ...(out ? ["--out", out] : [])].join(" ");
}
