"""Fuzzes everything that reads input from others, and adds a row for each to benchmarks/results/fuzz.jsonl.

    python -m fuzz.run --seconds 60                 # of each loader, and of mmrt on each instruction set
    python -m fuzz.run --seconds 5 --only gate,mmrt-avx2 --out here.jsonl

It begins with the inputs of fuzz/seeds.py and of fuzz/corpus, whose files named finding-... were findings that are
mended. A new finding is kept in fuzz/findings, and the exit status is then 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from fuzz.loaders import LOADERS, ROOT
from fuzz.mmrt import build_mmrt, instruction_sets
from fuzz.seeds import write_seeds
from mmprune.commit import commit
from targets.on_device.board import cpu_facts

CORPUS, FINDINGS = ROOT / "fuzz" / "corpus", ROOT / "fuzz" / "findings"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
MMRT = "mmrt"
FIXED = "finding-"  # files of the corpus that were findings once
LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1", "-use_value_profile=0")
LONGEST = {MMRT: 4096, "weights": 4096, "image": 4096, "onnx": 4096, "bundle": 16384}  # bytes of an input
USUAL = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each loader and each instruction set")
    parser.add_argument("--runs", type=int, help="so many executions at most, the same ones every time")
    parser.add_argument("--only", default="", help="some of them, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "fuzz", help="where mmrt's fuzzer is built")
    parser.add_argument("--keep", type=Path, help="a folder that gets the inputs that took new branches")
    asked = parser.parse_args()
    some = asked.only.split(",") if asked.only else []
    program = build_mmrt(asked.build) if not some or any(name.startswith(MMRT) for name in some) else None
    sets = instruction_sets(program) if program else []
    every = {**{f"{MMRT}-{isa}": isa for isa in sets}, **dict.fromkeys(LOADERS, "")}
    names = some or list(every)
    if unknown := [name for name in names if name not in every]:
        parser.error(f"there is no {unknown[0]}; choose from {', '.join(every)}")
    found = 0
    for name in names:
        row = fuzz(name, every[name], program, asked)
        found += row["found"]
        print(f"{name}: {row['executions']} executions in {row['seconds']} s, {row['found']} findings", flush=True)
        with open(asked.out, "a") as f:
            f.write(json.dumps(row) + "\n")
    sys.exit(found > 0)


def fuzz(name: str, isa: str, program: Path | None, asked: argparse.Namespace) -> dict:
    """Fuzz one loader for the seconds or runs that are asked for, or up to its first finding; the row of it."""
    loader = MMRT if isa else name
    FINDINGS.mkdir(exist_ok=True)
    before = set(FINDINGS.iterdir())
    with tempfile.TemporaryDirectory() as room:
        own = (asked.keep or Path(room)) / loader
        own.mkdir(parents=True, exist_ok=True)
        seeds = write_seeds(loader, Path(room) / "seeds")
        begins = [str(folder) for folder in (own, seeds, CORPUS / loader) if folder.is_dir()]
        run = [str(program)] if isa else [sys.executable, "-m", "fuzz.python_loader", name]
        command = [*run, *LIMITS, f"-max_total_time={asked.seconds}", f"-max_len={LONGEST.get(loader, USUAL)}",
                   f"-artifact_prefix={FINDINGS}/{name}-", *begins,
                   *([] if asked.runs is None else [f"-runs={asked.runs}", "-seed=1"])]
        started = datetime.now(timezone.utc)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
                              env={**os.environ, "MMRT_ISA": isa, "OMP_NUM_THREADS": "1"})
        took = (datetime.now(timezone.utc) - started).total_seconds()
    found = sorted(set(FINDINGS.iterdir()) - before)
    if done.returncode and not found:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    for path in found:
        print(f"{path}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return {"loader": loader, "isa": isa, "sanitizers": "address, undefined" if isa else "", "seconds": round(took),
            "executions": number("number_of_executed_units", done.stderr), "found": len(found),
            "fixed": len(list((CORPUS / loader).glob(f"{FIXED}*"))), "cpu": cpu_facts()[0], "commit": commit(),
            "started": started.isoformat(timespec="seconds")}


def number(stat: str, text: str) -> int:
    """One of libFuzzer's final statistics; after a finding the count in its last line."""
    if found := re.search(rf"stat::{stat}:\s+(\d+)", text):
        return int(found[1])
    return max((int(n) for n in re.findall(r"^#(\d+)\s", text, re.MULTILINE)), default=0)


if __name__ == "__main__":
    main()
