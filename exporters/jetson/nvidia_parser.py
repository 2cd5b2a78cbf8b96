"""Asks NVIDIA's own ONNX parser about a file: that of TensorRT-RTX (pip install tensorrt-rtx-cu12), on the CPU.

Always in a child process, since TensorRT may crash one. Its answer is a check and never proof: it is newer than every
JetPack's. This file is also the child's program, hence imports nothing of ours.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE, MODULE = "tensorrt-rtx-cu12", "tensorrt_rtx"
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ParserError:
    """One objection, in NVIDIA's words."""

    node: str
    operator: str
    code: str
    description: str


@dataclass(frozen=True)
class ParserVerdict:
    status: str  # accepted, rejected, absent or crashed
    version: str = ""  # of TensorRT-RTX
    built: bool = False  # an engine was built on the CPU, too
    errors: tuple[ParserError, ...] = ()  # where rejected
    detail: str = ""  # where absent, crashed or not built: what happened


def parse(path: Path | str, python: str = sys.executable, timeout_s: float = TIMEOUT_S) -> ParserVerdict:
    """The verdict of the parser that this Python has. Never raises for what the parser does."""
    try:
        done = subprocess.run([python, __file__, str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=timeout_s, check=False)
    except FileNotFoundError:
        return ParserVerdict("absent", detail=f"there is no {python}")
    except subprocess.TimeoutExpired:
        return ParserVerdict("crashed", detail=f"no answer within {timeout_s:g} s")
    if done.returncode != 0:
        reason = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        return ParserVerdict("crashed", detail=f"{reason}: {tail}" if tail else reason)
    row = json.loads(done.stdout)
    if row["status"] == "accepted" and not row["built"]:
        row["detail"] = next((s for s in reversed(done.stderr.splitlines()) if "[E]" in s), "without a reason")
    return ParserVerdict(**{**row, "errors": tuple(ParserError(**e) for e in row["errors"])})


def describe(verdict: ParserVerdict, tensorrt: str) -> str:
    """For people. `tensorrt` is the version that the JetPack has."""
    name = f"TensorRT-RTX {verdict.version}'s parser"
    if verdict.status == "accepted":
        not_built = "" if verdict.built else f", but no engine could be built on the CPU ({verdict.detail})"
        return f"accepted by {name} on the CPU{not_built}; JetPack's {tensorrt} is older: not proof"
    if verdict.status == "rejected":
        reasons = "; ".join(f"{e.node or 'the file'} ({e.operator or '?'}, {e.code}): {e.description}"
                            for e in verdict.errors)
        return f"rejected by {name}: {reasons}"
    if verdict.status == "absent":
        return f"skipped: {verdict.detail} (pip install {PACKAGE}, or mmprune[trt-check])"
    return f"not known: NVIDIA's parser ended with {verdict.detail}"


# ----------------------------------------------------------------------------------------------------------- the child

def ask(path: str) -> ParserVerdict:
    """In the child: parse, and build on the CPU."""
    try:
        import tensorrt_rtx as trt
    except ImportError as err:
        return ParserVerdict("absent", detail=f"{MODULE} is not importable: {err}")
    version = ".".join(trt.__version__.split(".")[:3])
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    with open(path, "rb") as f:
        content = f.read()

    def fresh() -> Any:  # each question fills the network that it is asked with
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return network, trt.OnnxParser(network, builder.logger)

    _, parser = fresh()
    if parser.supports_model_v2(content, path):
        network, parser = fresh()
        if parser.parse(content, path):
            engine = builder.build_serialized_network(network, builder.create_builder_config())
            return ParserVerdict("accepted", version, built=engine is not None)
    found = (parser.get_error(i) for i in range(parser.num_errors))
    errors = dict.fromkeys(ParserError(e.node_name(), e.node_operator(), str(e.code()).rpartition(".")[2],
                                       e.desc().strip()) for e in found)  # both questions name some
    return ParserVerdict("rejected", version, errors=tuple(errors) or (ParserError("", "", "UNKNOWN", "no reason"),))


def main(path: str) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # TensorRT prints to stdout as it pleases
    verdict = ask(path)
    answer.write(json.dumps({**verdict.__dict__, "errors": [e.__dict__ for e in verdict.errors]}) + "\n")
    answer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
