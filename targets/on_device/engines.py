"""Builds TensorRT engines, with trtexec or the Python package, and caches them."""

import glob
import hashlib
import json
import os
import sys
from typing import Any, Dict, List, NamedTuple, Tuple

from .board import board, jetson_versions, power_mode
from .job import Refused, read_json, sha256_of, write_json
from .sysfs import NOT_REPORTED
from .trtexec import (
    BUILD_LINES,
    MEMORY_ERRORS,
    OPTIMIZATION_LEVEL,
    TRTEXEC,
    build_command,
    dotted,
    execute,
    facts_path,
    find_trtexec,
    layers_path,
    name_of,
    sparse_kernels,
    sparsity_in,
    version_in,
)

# An ONNX model of one Relu on one number, to measure the memory of CUDA and TensorRT themselves
EMPTY_MODEL = ("CAg6SQoVCgVpbnB1dBIGb3V0cHV0IgRSZWx1EgVlbXB0eVoTCgVpbnB1dBIKCggIARIECgIIAWIU"
               "CgZvdXRwdXQSCgoICAESBAoCCAFCBAoAEBE=")
ENGINES = "engines"  # the folder of cached engines in the job's root


class Bench(NamedTuple):
    """What an engine depends on besides its file: it is for one version, one board and, because of the clocks during
    the choice of kernels, one power mode."""

    trtexec: str
    version: Tuple[int, ...]
    root: str
    folder: str
    api: str
    power_mode: str
    l4t: str
    board: str


def bench_of(job: Dict[str, Any], api: str) -> Bench:
    """The Bench of a job. Refused without trtexec, or if it does not report its version."""
    root = job["sysroot"]
    trtexec = find_trtexec(root)
    if not trtexec:
        raise Refused(f"trtexec is not in PATH and not at {TRTEXEC}: install it by sudo apt-get install libnvinfer-bin")
    version = version_in(execute([trtexec, "--help"], 60).text)
    if version is None:
        raise Refused(f"{trtexec} does not report its TensorRT version")
    folder = os.path.join(job["root"], ENGINES)
    return Bench(trtexec, version, root, folder, api, power_mode(),
                 jetson_versions(root).get("l4t", NOT_REPORTED), board(root))


def clean_folder(folder: str) -> None:
    """Create the folder if needed and remove what an interrupted build left."""
    os.makedirs(folder, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(folder), "*.part")):
        os.remove(left)


def engine_path(bench: Bench, entry: Dict[str, Any], arm: str, rebuild: int) -> str:
    facts = [entry["sha256"], dotted(bench.version), bench.l4t, bench.board, bench.power_mode, arm, rebuild, bench.api,
             entry["precision"], entry["workspace_mib"], OPTIMIZATION_LEVEL]
    return os.path.join(bench.folder, hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16] + ".plan")


def engine_of(bench: Bench, entry: Dict[str, Any], arm: str, rebuild: int) -> Tuple[str, Dict[str, Any]]:
    """(path, facts) of an engine, from the cache if it is complete, else built. Refused if it cannot be built."""
    engine = engine_path(bench, entry, arm, rebuild)
    facts = read_json(facts_path(engine))
    if facts and os.path.exists(engine) and sha256_of([engine]) == facts["engine_sha256"]:
        return engine, facts
    for last in (False, True):  # try twice: memory may become free when other programs end
        log = build(bench, entry, engine, arm)
        said = MEMORY_ERRORS.search(log)
        if not said:
            break
        os.remove(engine + ".part")
        if last:
            raise Refused(f"the build ran out of memory twice ({said.group(0)!r} in its log), and TensorRT then skips "
                          "kernels silently: end other programs, or lower workspace_mib")
    os.replace(engine + ".part", engine)
    eligible, chosen = sparsity_in(log)
    layers, kernels = sparse_kernels(read_json(layers_path(engine)) or {})
    facts = {"engine_sha256": sha256_of([engine]), "eligible": eligible, "chosen": chosen, "layers": layers,
             "sparse_kernels": kernels}
    write_json(facts_path(engine), facts)
    return engine, facts


def build(bench: Bench, entry: Dict[str, Any], engine: str, arm: str) -> str:
    """Build into `engine`.part; returns the log."""
    command = build_call(bench, entry, engine, arm)
    done = execute(command, entry["build_timeout_s"], keep=BUILD_LINES)
    if not os.path.exists(engine + ".part"):
        raise Refused(f"{name_of(command)} succeeded but wrote no engine{done.tail}")
    return done.text


def build_call(bench: Bench, entry: Dict[str, Any], engine: str, arm: str) -> List[str]:
    """The command that builds into `engine`.part."""
    if bench.api == "trtexec":
        return build_command(bench.trtexec, entry, engine, arm, bench.version)
    ask = {"onnx": entry["path"], "engine": engine + ".part", "layers": layers_path(engine), "sparse": arm == "on",
            "precision": entry["precision"], "workspace_mib": entry["workspace_mib"]}
    return [sys.executable, "-m", "on_device.engines", json.dumps(ask)]


def build_worker(ask: Dict[str, Any]) -> None:
    """Build one engine with TensorRT's Python package (8.6 to 11), in its own process, because it may crash."""
    import tensorrt as trt
    builder = trt.Builder(trt.Logger(trt.Logger.VERBOSE))
    creation, flags = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
    typed = hasattr(creation, "STRONGLY_TYPED")
    wanted = [creation.STRONGLY_TYPED] if typed else [creation.EXPLICIT_BATCH]
    network = builder.create_network(sum(1 << int(flag) for flag in wanted))
    parser = trt.OnnxParser(network, builder.logger)
    with open(ask["onnx"], "rb") as f:
        if not parser.parse(f.read(), os.path.abspath(ask["onnx"])):
            raise SystemExit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or "not parsed")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, ask["workspace_mib"] << 20)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if ask["sparse"]:
        config.set_flag(flags.SPARSE_WEIGHTS)
    if not typed:
        for name in ["FP16"] + (["INT8"] if ask["precision"] == "int8" else []):
            config.set_flag(getattr(flags, name))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT built no engine")
    with open(ask["engine"], "wb") as f:
        f.write(engine)
    runtime = trt.Runtime(builder.logger)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is not None:  # its layers can only be listed where it can run
        with open(ask["layers"], "w", encoding="utf-8") as f:
            f.write(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    build_worker(json.loads(sys.argv[1]))
