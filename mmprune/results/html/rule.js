"use strict";
// The rule of `mmprune choose`, as in mmprune/results/choose.py: tests/test_page_in_browser.py compares the two.

// What `mmprune choose` can limit: its option, the unit of the option's value, and which of a board's costs it bounds
const LIMITS = [
  { name: "latency", option: "--max-latency-ms", unit: "ms", label: "Max. latency" },
  { name: "size", option: "--max-size-mb", unit: "MiB", label: "Max. download" },
  { name: "memory", option: "--max-memory-mb", unit: "MiB", label: "Max. memory" },
  { name: "energy", option: "--max-energy-mj", unit: "mJ", label: "Max. energy" },
  { name: "accuracy", option: "--min-accuracy", unit: "%", label: "Min. accuracy" },
];
const PER_UNIT = { ms: 1e3, MiB: 1 / MIB, mJ: 1e3, "%": 100 }; // base units to those that are shown

/** An option's value in base units: seconds, bytes, joules or a fraction, rounded as Python does. */
function inBaseUnits(value, unit) {
  if (unit !== "MiB") return value / PER_UNIT[unit];
  const bytes = value * MIB,
    low = Math.floor(bytes);
  if (bytes - low !== 0.5) return Math.round(bytes);
  return low % 2 ? low + 1 : low;
}

/** A point's value of a limit in base units; null if it is not known. */
function valueOf(board, index, name, percentile) {
  if (name === "accuracy") return board.points[index].accuracy;
  const costs = board.costs[name === "latency" ? `p${percentile}` : name];
  return costs === undefined ? null : costs[index];
}

/** One {name, allowed, value, share} for each limit of the budget: share is the margin, negative if it is broken. */
function rooms(board, index, budget) {
  return LIMITS.filter(({ name }) => budget[name] !== undefined && !(name === "accuracy" && budget[name] === 0)).map(
    ({ name, unit }) => {
      const allowed = budget[name],
        value = valueOf(board, index, name, budget.percentile);
      const share = value === null ? -Infinity : name === "accuracy" ? value / allowed - 1 : 1 - value / allowed;
      return { name, unit, allowed, value, share };
    },
  );
}

/**
 * The most accurate point within the budget, and among those within `tie` of it the fastest, then the smallest.
 * budget   {percentile, runtime, latency, size, memory, energy, accuracy}; a limit that is undefined is none
 * returns  {winner, runnerUp, miss: {index, room}, broken}: indices of the board's points, or null; `broken` has the
 *          limit that each point exceeds the most, null if it fits, undefined if it is of another runtime
 */
function choose(board, budget, tie) {
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
    tie,
  );
  const index = least(
    every.filter((i) => broken[i]),
    (i) => -broken[i].share,
  );
  return { winner, runnerUp, miss: index === null ? null : { index, room: broken[index] }, broken };
}

/** Best first. Ties are judged against the best remaining point, so that a chain of near-ties cannot drift down. */
function ranked(board, indices, budget, tie) {
  const left = [...indices],
    found = [];
  const latency = (i) => valueOf(board, i, "latency", budget.percentile) ?? board.costs.p50[i];
  while (left.length) {
    const best = Math.max(...left.map((i) => board.points[i].accuracy));
    const near = left.filter((i) => best - board.points[i].accuracy < tie);
    const fastest = Math.min(...near.map(latency));
    found.push(
      least(
        near.filter((i) => latency(i) === fastest),
        (i) => board.costs.size[i],
      ),
    );
    left.splice(left.indexOf(found.at(-1)), 1);
  }
  return found;
}

/** The first of the items with the least value; null without items. */
function least(items, value) {
  return items.reduce((best, item) => (best === null || value(item) < value(best) ? item : best), null);
}

/** The command that chooses the same. `typed` has the limits in the options' units. */
function chooseCommand(typed, percentile, runtime, out = "") {
  const words = ["mmprune choose", FAMILY.family];
  for (const { name, option, unit } of LIMITS) {
    if (typed[name] !== undefined) words.push(option, `${typed[name]}${unit === "%" ? "%" : ""}`);
  }
  if (percentile !== 90) words.push("--percentile", percentile);
  if (runtime) words.push("--runtime", FAMILY.runtimes[runtime].word);
  return [...words, ...(out ? ["--out", out] : [])].join(" ");
}
