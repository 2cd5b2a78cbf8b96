"""Writes the tables of README.md and docs/ from the rows in benchmarks/results.

    python benchmarks/tables.py            # rewrites every table that a page marks
    python benchmarks/tables.py --check    # exits with 1 and names the pages that are out of date

A page marks a table by two comments, and this script writes what stands between them:

    <!-- table: at_equal_accuracy -->
    <!-- end of table -->

The names are those of TABLES. To add a table, add a function that returns Markdown and a row.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
MIB = 2**20
Row = dict[str, Any]

MODELS = {"default": "small embedded ResNet, Fashion-MNIST", "resnet20": "ResNet-20, CIFAR-10",
          "resnet56": "ResNet-56, CIFAR-10", "resnet18": "ResNet-18 on 32 px, CIFAR-10",
          "lite0": "EfficientNet-Lite0, ten ImageNet classes",
          "lite0_1000": "EfficientNet-Lite0 with 1,000 outputs, ten ImageNet classes"}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "mmrt": "mmrt"}
VECTORS = {"avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx2": "AVX2",
           "asimddp": "NEON with dot product", "asimd": "NEON"}  # best first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and exit with 1 if a page is out of date")
    check = parser.parse_args().check
    old = [(page, text) for page in PAGES if (text := fill(page.read_text())) != page.read_text()]
    for page, text in old:
        print(page.relative_to(ROOT))
        if not check:
            page.write_text(text)
    sys.exit(bool(check and old))


def fill(markdown: str) -> str:
    """The page with its marked tables as the rows are now. KeyError for a name that TABLES does not have."""
    return MARK.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[4]}", markdown)


def of_first_core(rows: Sequence[Row]) -> list[Row]:
    """The rows of the core that comes first: a table is of one core, though a file may hold the rows of several."""
    of = [json.dumps([row.get(key) for key in ("cpu", "isa", "kernels", "amx")]) for row in rows]
    return [row for row, core in zip(rows, of, strict=True) if core == of[0]]


def read(name: str) -> list[Row]:
    """The rows of benchmarks/results/NAME, a .jsonl file or a .json file that has `rows`."""
    text = (RESULTS / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)["rows"]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


# What sparsity is worth at equal accuracy


def latest(rows: Iterable[Row]) -> list[Row]:
    """Of each model and core the newest run, in the order in which the models came first."""
    newest: dict[tuple[str, str, tuple[str, ...]], Row] = {}
    for row in sorted(rows, key=lambda r: r["started"]):
        newest[row["model"], row["cpu"], tuple(row["isa"])] = row
    return list(newest.values())


def core(row: Row) -> str:
    """The processor and its best vector instructions."""
    return f"{row['cpu']}, " + next((name for flag, name in VECTORS.items() if flag in row["isa"]), "no vectors")


def compared(row: Row, key: str) -> Row | None:
    """The sparse file with its ratio; None if there is none, or no dense file was measured beside it."""
    found: Row | None = row[key]
    return found if found and "times" in found else None


def times(found: Row) -> str:
    interval = f"{found['low']:.2f} to {found['high']:.2f}" if found["high"] else f"{found['low']:.2f} or more"
    return f"**{found['times']:.2f}** ({interval})" + (", " + found["busy"] if found["busy"] else "")


def headline() -> str:
    """README's table: the newest run of each model and core."""
    rows = []
    for row in latest(read("at_equal_accuracy.jsonl")):
        if (sparse := compared(row, "over_rival")) is not None:
            rows.append([MODELS.get(row["model"], row["model"]), times(sparse),
                         f"{row['rival']['p50_ms']:.3f} → {sparse['p50_ms']:.3f} ms",
                         f"{100 * row['rival']['accuracy']:.2f} → {sparse['accuracy']:.2%}", core(row)])
    return markdown_table(["model, data", "times as fast (99% interval)", "latency, dense → sparse",
                           "accuracy, dense → sparse", "one core of"], rows)


def at_equal_accuracy() -> str:
    """Every run, the newest last: the files, and both comparisons."""
    rows = []
    for row in read("at_equal_accuracy.jsonl"):
        sparse, of_rival, of_own = row["over_rival"], compared(row, "over_rival"), compared(row, "over_own")
        told = [MODELS.get(row["model"], row["model"]), f"{row['epochs']} epochs",
                *(f"`--{key} {row[key]}`" for key in ("strategies", "speedup", "keep") if row.get(key)), core(row),
                row["started"][:10]]
        about = f"{sparse['file']}, {sparse['sparsity']:.0%} zeros: {sparse['accuracy']:.2%}" if sparse else "none"
        rows.append([", ".join(told), f"{row['dense']:.2%}", about,
                     f"{times(of_rival)}, {latencies(of_rival, row['rival'])}" if of_rival else "-",
                     f"{times(of_own)}, {latencies(of_own, row['own'])}" if of_own else "-"])
    return markdown_table(["run", "dense accuracy", "fastest sparse file within one point",
                           "times as fast as the fastest dense file of ONNX Runtime and OpenVINO",
                           "times as fast as mmrt's fastest dense file"], rows)


def latencies(sparse: Row, dense: Row) -> str:
    return f"{sparse['p50_ms']:.3f} ms against {dense['p50_ms']:.3f} ms ({dense['file']})"


# The runtime beside its peers


def speed_table(name: str, runtime: str, sparsities: Sequence[float], bold: float = 0.9, memory_of: str = "",
                more: Sequence[tuple[str, str, float]] = ()) -> str:
    """Times as fast as the fastest dense peer, with quartiles; one row a model.

    memory_of  a peer whose dense memory stands beside mmrt's at the bold sparsity
    more       further columns: (heading, runtime, sparsity)
    """
    rows = [r for r in of_first_core(read(name)) if r["threads"] == 1]
    at = {(r["model"], r["runtime"], r["sparsity"]): r for r in rows}

    def cell(model: str, sparsity: float) -> str:
        row = at[model, runtime, sparsity]
        low, high = row["ratio_quartiles"]
        mark = "**" if sparsity == bold else ""
        return f"{mark}{row['ratio']:.2f}{mark} ({low:.2f} to {high:.2f})"

    def further(model: str, of: str, sparsity: float) -> str:
        return f"{at[model, of, sparsity]['ratio']:.2f}" if (model, of, sparsity) in at else "did not run"

    lines = []
    for model in dict.fromkeys(r["model"] for r in rows):
        base = at[model, runtime, sparsities[0]]["base"]
        milliseconds = at[model, base, 0.0]["p50_s"] * 1e3
        line = [model, f"{with_precision(base)}, {milliseconds:.{1 if milliseconds >= 1 else 2}f} ms",
                *(cell(model, s) for s in sparsities), *(further(model, of, s) for _, of, s in more)]
        if memory_of:
            line.append(f"{at[model, runtime, bold]['memory_bytes'] / MIB:.0f} / "
                        f"{at[model, memory_of, 0.0]['memory_bytes'] / MIB:.0f}")
        lines.append(line)
    head = ["model", "1.0 is", *(f"{s:.0%} zeros" for s in sparsities), *(heading for heading, _, _ in more)]
    if memory_of:
        head.append(f"memory, MiB: mmrt at {bold:.0%} / {with_precision(memory_of)} dense")
    return markdown_table(head, lines)


def with_precision(runtime: str) -> str:
    name, _, precision = runtime.partition("-")
    return f"{RUNTIMES[name]} {precision}".strip()


def runtime_float32() -> str:
    return speed_table("runtime_vs_peers.jsonl", "mmrt", (0.0, 0.7, 0.8, 0.9, 0.95), memory_of="onnxruntime",
                       more=[("DeepSparse 1.8 at 90%", "deepsparse", 0.9),
                             ("ONNX Runtime int8, dense", "onnxruntime-int8", 0.0)])


def int8_vnni() -> str:
    return speed_table("int8_vnni.jsonl", "mmrt-int8", (0.0, 0.7, 0.8, 0.85, 0.9), memory_of="onnxruntime-int8")


def float32_zen5() -> str:
    return speed_table("float32_zen5.jsonl", "mmrt", (0.0, 0.8, 0.9))


def int8_zen5() -> str:
    return speed_table("int8_zen5.jsonl", "mmrt-int8", (0.0, 0.6, 0.7, 0.8, 0.85))


def small_images() -> str:
    return speed_table("small_images.jsonl", "mmrt-int8", (0.0, 0.7, 0.8, 0.9))


def int8_amx() -> str:
    return speed_table("int8_amx.jsonl", "mmrt-int8", (0.0, 0.85, 0.9))


def int8_avx2() -> str:
    return speed_table("int8_vs_peers.jsonl", "mmrt-int8", (0.0, 0.7, 0.8, 0.85, 0.9), memory_of="onnxruntime-int8")


def block_4x1() -> str:
    """resnet50 in float32: single zeros beside blocks of four outputs, for each instruction set."""
    rows = read("block_4x1.jsonl")
    sparsities = sorted({r["sparsity"] for r in rows if r["sparsity"]})
    lines, seen = [], []
    for row in rows:
        if row["runtime"] == "mmrt" and (key := (row["settings"]["kernels"], row["pattern"])) not in seen:
            seen.append(key)
            at = {r["sparsity"]: r for r in rows if r["runtime"] == "mmrt" and r["pattern"] == key[1]
                  and r["settings"]["kernels"] == key[0]}
            lines.append([key[0], f"`{key[1]}`", *(f"{at[s]['p50_s'] * 1e3:.1f} ms, {at[s]['ratio']:.2f}"
                                                   for s in sparsities)])
    return markdown_table(["kernels", "pattern", *(f"{s:.0%} zeros" for s in sparsities)], lines)


def tiny_layers() -> str:
    """What a layer and a call cost beside their arithmetic, in microseconds."""
    lines = []
    for row in of_first_core(read("tiny_layers.jsonl")):
        low, high = row["layer_quartiles_s"]
        lines.append([with_precision(row["runtime"]), f"{row['p50_s'] * 1e6:.1f}",
                      f"{row['layer_s'] * 1e6:.2f} ({low * 1e6:.2f} to {high * 1e6:.2f})",
                      f"{row['call_s'] * 1e6:.1f}"])
    return markdown_table(["runtime", "50 layers, us", "a layer, us (quartiles)", "a call from Python, us"], lines)


def layer_choice() -> str:
    """How often mmrt's choice of a layer's kernel was right, what was lost by it, and how far off the cost model is."""
    lines = [[f"{row['model']}, {row['img_size'] or 224} px, {row['precision']}", f"{row['sparsity']:.0%}",
              f"{row['right']} of {row['layers']}",
              *(f"{row['over_best'][way] - 1:.0%}" for way in ("chosen", "dense", "sparse", "columns")),
              f"{row['off']:.0%}"]
             for row in of_first_core(read("layer_choice.jsonl"))]
    return markdown_table(["model", "zeros", "right choices", "lost by them", "lost if all dense", "all sparse",
                           "all columns", "cost model off by (median)"], lines)


def paper_comparison() -> str:
    """Test accuracy of the paper's strategies and of single criteria at the same total, the largest total first."""
    rows = sorted(read("paper_comparison.jsonl"), key=lambda row: -row["zeros"])
    names = {"magnitude": "one threshold on the magnitude"}
    return markdown_table(["zeros", "masks", "accuracy", "points lost"],
                          [[f"{row['zeros']:.1%}", names.get(row["method"], row["method"]), f"{row['test']:.2%}",
                            f"{100 * (row['dense'] - row['test']):.2f}"] for row in rows])


def why_every_layer() -> str:
    """Of each model and runtime: layers found in the profile, and the sum of its steps over the unprofiled latency."""
    files: dict[str, dict[str, Row]] = {}
    for row in of_first_core(read("why_every_layer.jsonl")):
        files.setdefault(row["model"], {})[f"{RUNTIMES[row['runtime']]} {row['precision']}"] = row
    kinds = list(dict.fromkeys(kind for of in files.values() for kind in of))
    lines = []
    for model, of in files.items():
        total, missing = next(iter(of.values()))["layers"], {name for row in of.values() for name in row["lost"]}
        lines.append([model, f"{total - len(missing)} of {total}",
                      *(f"{of[kind]['steps_s'] / of[kind]['latency_s']:.0%}" for kind in kinds)])
    return markdown_table(["model", "layers found by all", *kinds], lines)


# Sizes, and instructions on emulated boards


def chaos() -> str:
    """How the same command ended after each kind of fault."""
    found: dict[str, list[Row]] = {}
    for row in read("chaos.jsonl"):
        where = row["where"] if row["fault"] in ("SIGKILL", "Ctrl-C", "clock") else ""
        found.setdefault(", ".join(filter(None, (row["fault"], where))), []).append(row)
    head = ("fault", "trials", "the same family", "an error that says the way out", "anything else")
    return markdown_table(head, [(
        name, str(len(rows)), str(sum(r["ends"] == "same family" for r in rows)),
        str(sum(r["ends"] == "clear error" for r in rows)),
        str(sum(r["ends"] not in ("same family", "clear error") or not r["holds"] for r in rows)))
        for name, rows in found.items()])


def size() -> str:
    """As a fraction of the dense float32 weights, at 90 % zeros."""
    keys = {"ONNX file": "onnx", "xz -6 of it": "onnx_xz", "zstd -19 of it": "onnx_zstd", "`.mmrt`": "mmrt",
            "`.mmrt.xz`": "mmrt_download", "`.mmrt`, fp16 values": "mmrt_fp16",
            "`.mmrt.xz`, fp16 values": "mmrt_fp16_download", "entropy bound, fp32": "entropy"}
    rows = [[f"{r['model']}, {r['dense_bytes'] / MIB:.1f} MiB",
             *(f"{r[key] / r['dense_bytes']:.4f}" for key in keys.values())]
            for r in read("mmrt_size.jsonl") if r["sparsity"] == 0.9]
    return markdown_table(["model", *keys], rows)


def arm64_float32() -> str:
    """Millions of instructions on the emulated Pi 5."""
    rows = [r for r in read("arm64_instructions.json") if r["board"] == "pi5"]
    count = {(r["model"], r["runtime"], r["sparsity"]): r["instructions"] / 1e6 for r in rows}
    lines = []
    for model, pixels in dict.fromkeys((r["model"], r["image_size"]) for r in rows):
        ort, ov = (count[model, peer, 0.0] for peer in ("onnxruntime", "openvino"))
        own = [count[model, "mmrt", s] for s in (0.0, 0.8, 0.9)]
        lines.append([f"{model}, {pixels} px", *(f"{n:.1f}" for n in (ort, ov, *own)),
                      f"{own[-1] / ort:.2f}", f"{own[-1] / ov:.2f}"])
    return markdown_table(["model", "ONNX Runtime, dense", "OpenVINO, dense", "mmrt, dense", "mmrt, 80% zeros",
                           "mmrt, 90% zeros", "mmrt at 90% / ONNX Runtime", "mmrt at 90% / OpenVINO"], lines)


def arm64_int8() -> str:
    """Instructions as a fraction of ONNX Runtime's dense int8 on the same emulated board."""
    rows = read("arm64_instructions_int8.json")
    count = {(r["board"], r["model"], r["runtime"], r["sparsity"]): r["instructions"] for r in rows}
    sparsities = sorted({r["sparsity"] for r in rows})
    lines = [[f"{ {'pi4': 'Pi 4', 'pi5': 'Pi 5'}[board] }, {model}, {pixels} px",
              *(f"{count[board, model, 'mmrt', s] / count[board, model, 'onnxruntime', 0.0]:.2f}" for s in sparsities)]
             for model, pixels, board in sorted({(r["model"], r["image_size"], r["board"]) for r in rows},
                                                key=lambda key: (key[0] != "resnet18", key[2] != "pi5"))]
    return markdown_table(["emulated board, model", *(f"{s:.0%} zeros" for s in sparsities)], lines)


# Hostile input


def fuzz() -> str:
    """Of each loader all runs so far, and their sum."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in read("fuzz.jsonl"):
        runs.setdefault((row["loader"], row["isa"]), []).append(row)

    def total(rows: Iterable[Row], key: str) -> str:
        return f"{sum(row[key] for row in rows):,}"

    lines = [[", ".join(filter(None, name)), rows[-1]["sanitizers"] or "-", total(rows, "executions"),
              total(rows, "seconds"), str(rows[-1]["fixed"]), rows[-1]["cpu"],
              f"{rows[-1]['started'][:10]}, `{rows[-1]['commit']}`"] for name, rows in runs.items()]
    every = [row for rows in runs.values() for row in rows]
    mended = {loader: rows[-1]["fixed"] for (loader, _), rows in runs.items()}
    lines.append(["all", "", total(every, "executions"), total(every, "seconds"), str(sum(mended.values())), "", ""])
    return markdown_table(["loader", "sanitizers", "executions", "seconds", "found and mended", "one core of",
                           "last run"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "at_equal_accuracy": at_equal_accuracy,
    "runtime_float32": runtime_float32,
    "int8_vnni": int8_vnni,
    "float32_zen5": float32_zen5,
    "int8_zen5": int8_zen5,
    "small_images": small_images,
    "int8_amx": int8_amx,
    "int8_avx2": int8_avx2,
    "block_4x1": block_4x1,
    "tiny_layers": tiny_layers,
    "layer_choice": layer_choice,
    "why_every_layer": why_every_layer,
    "paper_comparison": paper_comparison,
    "size": size,
    "arm64_float32": arm64_float32,
    "chaos": chaos,
    "arm64_int8": arm64_int8,
    "fuzz": fuzz,
}

if __name__ == "__main__":
    main()
