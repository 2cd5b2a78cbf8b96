"""Has mmrt become slower than its rows of this core in benchmarks/results? Exits with 1 if so.

    python benchmarks/bench_gate.py [--models resnet18,...] [--rounds 20] [--tries 3] [--results FOLDER]

The rows are those that `runtime_vs_peers.py --json` wrote. One counts if its CPU, instruction sets, kernels and the
version of its peer are this machine's; where none does, that is said, and nothing fails. A row's file is made and
measured again, taking turns with the peer's dense file in one run. Compared are ratios to that peer and not times, so
that a busy or slower machine changes little. A row is slower where the quartiles of the two ratios over the rounds lie
apart by more than 3 %. It is then measured again, in other processes; what is slower each time fails.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cores import Row, core_of, key_of, this_core
from runtime_vs_peers import make_files, probe_for, run_probe, spread

RESULTS = Path(__file__).parent / "results"
SLACK = 0.03  # by which two builds of the same source differ, by where the linker puts a loop
PEER_PACKAGES = ("onnxruntime", "openvino")
Measure = Callable[[Sequence[Row]], dict[tuple[object, ...], list[float]]]  # {key_of(row): quartiles of its ratio now}


def read_rows(folder: Path) -> list[Row]:
    """mmrt's rows with a ratio in every .jsonl file, the newest of each."""
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    found = [row for row in rows if "ratio_quartiles" in row and str(row.get("runtime")).startswith("mmrt")]
    newest = {(core_of(row), key_of(row)): row for row in sorted(found, key=lambda row: row.get("started", ""))
              if core_of(row)}
    return list(newest.values())


def comparable(rows: Iterable[Row], here: Row, versions: Mapping[str, str],
               threads: int) -> tuple[list[Row], list[str]]:
    """The rows of this core that can be measured again, and a sentence for each peer's version that is another.

    versions  of the installed peers
    threads   the most that this machine has
    """
    mine = [row for row in rows if core_of(row) == core_of(here) and row["threads"] <= threads]
    able = [row for row in mine if versions.get(row["base"].removesuffix("-int8")) == row["base_version"]]
    other = {f"rows beside {row['base']} {row['base_version']} are left out: installed is "
             f"{versions.get(row['base'].removesuffix('-int8'), 'none')}" for row in mine if row not in able}
    return able, sorted(other)


def is_slower(row: Row, now: Sequence[float]) -> bool:
    """now  (first quartile, median, third quartile) of the ratio"""
    return now[2] < (1 - SLACK) * row["ratio_quartiles"][0]


def slower_rows(rows: Sequence[Row], measure: Measure, tries: int, say: Callable[[str], None]) -> list[Row]:
    """The rows that are slower in every one of `tries` measurements; only suspects are measured again."""
    suspects = list(rows)
    for left in range(tries, 0, -1):
        now = measure(suspects)
        for row in suspects:
            low, middle, high = now[key_of(row)]
            word = "SLOWER" if is_slower(row, now[key_of(row)]) else "ok"
            say(f"{words(row)}: {row['ratio']:.3f} times as fast as {row['base']}, now {middle:.3f} "
                f"({low:.3f} to {high:.3f}): {word}" + (", measured again" if word != "ok" and left > 1 else ""))
        suspects = [row for row in suspects if is_slower(row, now[key_of(row)])]
        if not suspects:
            break
    return suspects


def words(row: Row) -> str:
    return f"{row['model']} {row['runtime']} {row['pattern']} at {row['sparsity']:.0%}, {row['threads']} thread(s)"


def measured(rows: Sequence[Row], rounds: int) -> dict[tuple[object, ...], list[float]]:
    """Quartiles of the ratio of each row, now: files are made again, and each takes turns with its peer."""
    found: dict[tuple[object, ...], list[float]] = {}
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("model", "img_size", "threads", "pattern", "precision", "base")),
                          []).append(row)
    for (model, img_size, threads, pattern, precision, base), group in groups.items():
        asked = Namespace(img_size=img_size, pattern=pattern, precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            files = {}
            for sparsity in sorted({0.0, *(row["sparsity"] for row in group)}):
                wanted = [row["runtime"] for row in group if row["sparsity"] == sparsity] + [base] * (sparsity == 0)
                made = make_files(str(model), sparsity, wanted, Path(folder), asked)
                files.update({(sparsity, runtime): path for runtime, path in made.items()})
            now = {(row["sparsity"], row["runtime"]): row for row in
                   run_probe(files, [int(str(threads))], rounds, 1.0, probe_for([], no_amx=False))}
        for row in group:
            found[key_of(row)] = list(spread(now[row["sparsity"], row["runtime"]], now[0.0, str(base)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="only these, with commas between")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tries", type=int, default=3, help="measurements in which a row must be slower to fail")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    asked = parser.parse_args()
    here = this_core()
    versions = {name: importlib.metadata.version(name) for name in PEER_PACKAGES}
    rows, left_out = comparable(read_rows(asked.results), here, versions, os.cpu_count() or 1)
    rows = [row for row in rows if not asked.models or row["model"] in asked.models.split(",")]
    for line in left_out:
        print(line, file=sys.stderr)
    if not rows:
        print(f"no committed rows of this core ({here['cpu']} with mmrt's {here['kernels']} kernels): nothing to "
              f"compare; python benchmarks/runtime_vs_peers.py --json {asked.results}/NAME.jsonl writes some")
        return
    slower = slower_rows(rows, lambda some: measured(some, asked.rounds), asked.tries,
                         lambda line: print(line, flush=True))
    if slower:
        sys.exit(f"Error: {len(slower)} of {len(rows)} rows are slower than committed, in {asked.tries} of "
                 f"{asked.tries} measurements: {'; '.join(map(words, slower))}")
    print(f"none of {len(rows)} rows is slower than committed")


if __name__ == "__main__":
    main()
