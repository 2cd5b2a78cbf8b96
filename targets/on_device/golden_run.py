"""Compares models' outputs on this device with the reference outputs; stdlib + numpy, Python 3.8.

    python3 -m on_device.golden_run run JOB.json     all entries of the job, each file and runtime once; "-" reads stdin
    python3 -m on_device.golden_run worker           one entry, as a JSON line on stdin

The job is that of job.py with `golden`: an .npz with normalized `images` (N, C, H, W), and by artifact id the reference
outputs (N, classes) of the file from the machine with the family. Lines on stdout:

    {"kind": "golden", "artifact", "sha256", "runtime", "threads", "images", "top1_agreement",
     "max_relative_difference": max |difference| as a fraction of the largest |logit| of the reference}
    {"kind": "error", ...}                 the file did not run, see job.py
    {"kind": "progress", "part": 0, "fraction"}, and at the end {"kind": "done"}
"""

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterable, List

from .job import Refused, read_job, say, say_error
from .runtimes import RUNTIMES, answers

if TYPE_CHECKING:
    import numpy

TIMEOUT_S = 600


def difference(got: "numpy.ndarray", expected: "numpy.ndarray") -> Dict[str, Any]:
    """The difference of these outputs (N, classes) from the reference: fields of a row of kind "golden".

    Refused for another shape or values that are not finite.
    """
    import numpy
    if got.shape != expected.shape or not numpy.isfinite(got).all():
        raise Refused(f"its outputs are not finite, or have the shape {got.shape} and not {expected.shape}")
    return {"max_relative_difference": float(abs(got - expected).max() / abs(expected).max()),
            "top1_agreement": float((got.argmax(1) == expected.argmax(1)).mean()), "images": len(got)}


def compare(ask: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of a row of kind "golden"; the file runs with the settings of the timing."""
    import numpy
    with numpy.load(ask["golden"]) as golden:
        images, expected = golden["images"], golden[ask["artifact"]]
    run = answers(RUNTIMES[ask["runtime"]].open(ask["path"], ask["threads"]))
    return difference(numpy.concatenate([run(images[i:i + 1]) for i in range(len(images))]), expected)


def worker() -> None:
    """Compare one entry in its own process, because a wrong library may crash it."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes may print to stdout
    try:
        answer.write(json.dumps(compare(json.loads(sys.stdin.readline()))))
    except Refused as err:
        sys.exit(str(err))
    answer.flush()


def comparable(entries: Iterable[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The entries to compare, each file and runtime once; without the null runtime, which has no outputs."""
    able = [name for name, runtime in RUNTIMES.items() if runtime.module]
    return list({(e["artifact"], e["runtime"]): e for e in entries if e["runtime"] in able}.values())


def check(job: Dict[str, Any], entry: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of a row of kind "golden". Refused if the file did not run."""
    same = {key: entry[key] for key in ("artifact", "sha256", "runtime", "threads")}
    ask = dict(same, golden=os.path.join(job["root"], job["golden"]), path=os.path.join(job["root"], entry["path"]))
    command = [sys.executable, "-m", "on_device.golden_run", "worker"]
    try:
        done = subprocess.run(command, input=json.dumps(ask) + "\n", capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Refused(f"golden outputs: no response within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-10:])[-2000:]
        raise Refused(f"golden outputs: exit status {done.returncode}: {tail}")
    return dict(same, **json.loads(done.stdout))


def run(job: Dict[str, Any]) -> None:
    entries = comparable(job["entries"])
    for i, entry in enumerate(entries):
        say("progress", part=0, fraction=i / len(entries))
        try:
            say("golden", **check(job, entry))
        except Refused as err:
            say_error(entry, str(err))
    say("done")


def main(arguments: List[str]) -> None:
    if arguments == ["worker"]:
        return worker()
    if len(arguments) != 2 or arguments[0] != "run":
        sys.exit(__doc__)
    run(read_job(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
