"""Compares what models answer on this device with what they answered at home; stdlib + numpy, Python 3.8.

    python3 golden_run.py run JOB.json     every entry of the job, one a file and runtime; "-" reads the job from stdin
    python3 golden_run.py worker           one of them, as a JSON line on stdin

The job is probe.py's with `golden`: an .npz with `images` (N, C, H, W), normalized, and by artifact id the outputs
(N, classes) of this very file at home. Lines on stdout:

    {"kind": "golden", "artifact", "sha256", "runtime", "threads", "images", "top1_agreement",
     "max_relative_difference": max |difference| as a fraction of the largest |logit| at home}
    {"kind": "error", ..., "message"}      the file did not run
    {"kind": "progress", "part": 0, "fraction"}, and at the end {"kind": "done"}
"""

import importlib
import json
import os
import subprocess
import sys

TIMEOUT_S = 600


# A runtime is a function (path) -> (image (1, C, H, W) -> logits (1, classes)), in float32 as on the machine at home.

def run_onnxruntime(path):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def run_openvino(path):
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else this import is reported to its makers
    import openvino
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: model(image)[0]


def run_mmrt(path):
    model = importlib.import_module("mmrt").Model(path, 1)
    return lambda image: model(image)[0]


RUNTIMES = {"onnxruntime": run_onnxruntime, "openvino": run_openvino, "mmrt": run_mmrt}


def compare(ask):
    """The fields of a row of kind "golden"."""
    import numpy
    with numpy.load(ask["golden"]) as golden:
        images, expected = golden["images"], golden[ask["artifact"]]
    run = RUNTIMES[ask["runtime"]](ask["path"])
    got = numpy.concatenate([numpy.array(run(images[i:i + 1])) for i in range(len(images))])
    if got.shape != expected.shape or not numpy.isfinite(got).all():
        raise SystemExit(f"its outputs have shape {got.shape}, at home {expected.shape}, or are not finite")
    return {"max_relative_difference": float(abs(got - expected).max() / abs(expected).max()),
            "top1_agreement": float((got.argmax(1) == expected.argmax(1)).mean()), "images": len(images)}


def worker():
    """Compare one entry in a process of its own: a wrong library may end it."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print to stdout as they please
    answer.write(json.dumps(compare(json.loads(sys.stdin.readline()))))
    answer.flush()


def comparable(entries):
    """Those that can be compared here, one a file and runtime."""
    return list({(e["artifact"], e["runtime"]): e for e in entries if e["runtime"] in RUNTIMES}.values())


def worker_command():
    return [sys.executable, os.path.abspath(__file__), "worker"]


def check(job, entry):
    """The row of kind "golden", or of kind "error" where the file did not run."""
    same = {key: entry[key] for key in ("artifact", "sha256", "runtime", "threads")}
    ask = dict(same, golden=os.path.join(job["root"], job["golden"]), path=os.path.join(job["root"], entry["path"]))
    try:
        done = subprocess.run(worker_command(), input=json.dumps(ask) + "\n", capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return dict(same, kind="error", message=f"golden outputs: no answer within {TIMEOUT_S} s")
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-10:])[-2000:]
        about = "{artifact} on {runtime}".format(**entry)
        return dict(same, kind="error", message=f"{about}: golden outputs: ended with {done.returncode}: {tail}")
    return dict(same, kind="golden", **json.loads(done.stdout))


def run(job):
    entries = comparable(job["entries"])
    for i, entry in enumerate(entries):
        print(json.dumps({"kind": "progress", "part": 0, "fraction": i / len(entries)}), flush=True)
        print(json.dumps(check(job, entry)), flush=True)
    print(json.dumps({"kind": "done"}), flush=True)


def main(arguments):
    if arguments == ["worker"]:
        return worker()
    if len(arguments) != 2 or arguments[0] != "run":
        sys.exit(__doc__)
    if arguments[1] == "-":
        return run(json.load(sys.stdin))
    with open(arguments[1], encoding="utf-8") as f:
        run(json.load(f))


if __name__ == "__main__":
    main(sys.argv[1:])
