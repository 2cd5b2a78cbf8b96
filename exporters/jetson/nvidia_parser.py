"""Checks a file with NVIDIA's own ONNX parser, that of TensorRT-RTX (pip install tensorrt-rtx-cu12), on the CPU.

It runs in a child process, since TensorRT may crash. Its result is a check and not a proof, because it is newer than
every JetPack's TensorRT. This file is also the child's program and therefore imports no other module of ours.
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
    """One error, in NVIDIA's words."""

    node: str
    operator: str
    code: str
    description: str


@dataclass(frozen=True)
class ParserVerdict:
    status: str  # accepted, rejected, absent or crashed
    version: str = ""  # of TensorRT-RTX
    built: bool = False  # whether an engine was also built on the CPU
    errors: tuple[ParserError, ...] = ()  # if rejected
    detail: str = ""  # if absent, crashed or not built: what happened


def parse(path: Path | str, python: str = sys.executable, timeout_s: float = TIMEOUT_S) -> ParserVerdict:
    """The verdict of the parser installed for this Python. Failures of the parser do not raise."""
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
    """The verdict in words. `tensorrt` is the version in the JetPack."""
    name = f"TensorRT-RTX {verdict.version}'s parser"
    if verdict.status == "accepted":
        not_built = "" if verdict.built else f", but no engine could be built on the CPU ({verdict.detail})"
        return f"accepted by {name} on the CPU{not_built}; this is no proof, since JetPack's {tensorrt} is older"
    if verdict.status == "rejected":
        reasons = "; ".join(f"{e.node or 'the file'} ({e.operator or '?'}, {e.code}): {e.description}"
                            for e in verdict.errors)
        return f"rejected by {name}: {reasons}"
    if verdict.status == "absent":
        return f"skipped: {verdict.detail} (pip install {PACKAGE}, or mmprune[trt-check])"
    return f"no result: NVIDIA's parser ended with {verdict.detail}"


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

    def fresh() -> Any:  # each query fills the network that it gets
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
