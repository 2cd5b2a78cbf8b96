"""mmrt: its own tests, natively; the kernels that are compiled in; the Python file; the C program of the docs."""

import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from mmrt_build import native_mmrt
from onnx import TensorProto, helper, numpy_helper

from exporters.to_mmrt import write_mmrt

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime"
KERNELS = {"x86_64": ["avx512vnni", "avx512", "avxvnni", "avx2", "scalar"],  # best first
           "aarch64": ["neon_dotprod", "neon", "scalar"]}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The library and mmrt-bench."""
    return native_mmrt(tmp_path_factory)


@pytest.fixture(scope="module")
def mmrt(built):
    shutil.copy(RUNTIME / "mmrt.py", built)
    return module(built / "mmrt.py")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Two convolutions, the first sparse, and a pool: (1, 3, 8, 8) -> (1, 4, 1, 1)."""
    random = np.random.default_rng(0)
    first = random.standard_normal((16, 3, 3, 3)).astype(np.float32)
    first[random.random(first.shape) < 0.8] = 0
    second = random.standard_normal((4, 16, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["input", "first"], ["a"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "second"], ["c"]),
             helper.make_node("GlobalAveragePool", ["c"], ["output"])]
    graph = helper.make_graph(nodes, "two", [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, 8, 8))],
                              [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 4, 1, 1))],
                              [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")])
    path = tmp_path_factory.mktemp("model") / "two.mmrt"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    write_mmrt(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.slow
def test_its_own_tests(tmp_path_factory):
    built = native_mmrt(tmp_path_factory, tests=True)
    names = module(RUNTIME / "build.py").TESTS
    assert names
    for name in names:
        done = subprocess.run([built / name], capture_output=True, text=True, check=False)
        passed, failed = map(int, re.search(r"(\d+) passed, (\d+) failed", done.stdout).groups())
        assert (done.returncode, failed) == (0, 0), done.stdout + done.stderr
        assert passed > 0


def test_no_kernel_has_vanished(mmrt):
    assert mmrt.compiled_kernels() == KERNELS[platform.machine()]


@pytest.mark.slow
def test_every_source_is_compiled(tmp_path_factory):
    """compile_commands.json has all but the instruction sets of other processors."""
    built = native_mmrt(tmp_path_factory, tests=True)
    commands = json.loads((built / f"build-{platform.machine()}" / "compile_commands.json").read_text())
    left_out = set(RUNTIME.rglob("*.cc")) - {Path(row["file"]) for row in commands}
    assert all(path.name.startswith("isa_") for path in left_out)
    assert all(row["arguments"][-3] == row["file"] and Path(row["arguments"][-1]).is_file() for row in commands)


def test_it_needs_nothing_but_the_c_and_c_plus_plus_libraries(built):
    needed = subprocess.run(["readelf", "-d", built / "libmmrt.so"], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*?)\.so", needed))
    assert libraries <= {"libc", "libm", "libpthread", "libstdc++", "libgcc_s", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_any_number_of_threads_gives_the_same_bits(mmrt, model_file):
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8), np.float32)
    answers = [mmrt.Model(model_file, threads)(x)[0] for threads in (1, 2, 5)]
    assert all(np.array_equal(answers[0], other) for other in answers[1:])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_has_the_bits_of_one_image_at_a_time(mmrt, model_file, threads):
    model = mmrt.Model(model_file, threads)
    images = np.random.default_rng(2).standard_normal((5, 3, 8, 8), np.float32)
    for count in (5, 2, 0):
        answer, = model(images[:count])
        assert answer.shape == (count, 4, 1, 1)
        assert all(np.array_equal(answer[i:i + 1], model(images[i:i + 1])[0]) for i in range(count))
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\), or any number in place of the 1, got \(5, 3, 8\)"):
        model(images[..., 0])
    with pytest.raises(ValueError, match="not of a batch"):
        model.profile(images)


def test_arrays_that_cannot_be_written_or_are_views_are_read(mmrt, model_file):
    model = mmrt.Model(model_file)
    image = np.random.default_rng(2).standard_normal((1, 3, 8, 8), np.float32)
    want, = model(image)
    fixed = image.copy()
    fixed.flags.writeable = False
    every_second = np.repeat(image, 2, axis=3)[..., ::2]
    for same in (fixed, every_second, image.astype(np.float64), image.tolist(), np.asfortranarray(image)):
        assert np.array_equal(model(same)[0], want)


def onnx_of(nodes, inputs, outputs, constants=()):
    """An ONNX model of (operator, inputs, output) and shapes by name."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
            for given in (inputs, outputs)]
    graph = helper.make_graph([helper.make_node(op, ins, [out]) for op, ins, out in nodes], "g", *ends,
                              [numpy_helper.from_array(value, name) for name, value in dict(constants).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_batches_of_several_inputs_and_what_has_no_place_for_one(mmrt, tmp_path):
    write_mmrt(onnx_of([("Add", ["x", "z"], "y"), ("Relu", ["y"], "r")], {"x": (1, 4), "z": (1, 4)},
                       {"y": (1, 4), "r": (1, 4)}), tmp_path / "two.mmrt")
    model = mmrt.Model(tmp_path / "two.mmrt")
    x, z = np.random.default_rng(3).standard_normal((2, 6, 4), np.float32)
    y, r = model(x, z)
    assert np.array_equal(y, x + z) and np.array_equal(r, np.maximum(x + z, 0))
    with pytest.raises(ValueError, match="different sizes: x 6, z 5"):
        model(x, z[:5])
    with pytest.raises(ValueError, match=r"has 2 input\(s\), x, z; got 1"):
        model(x)
    write_mmrt(onnx_of([("Mul", ["x", "v"], "y")], {"x": (1, 4), "v": (4,)}, {"y": (1, 4)}), tmp_path / "flat.mmrt")
    flat = mmrt.Model(tmp_path / "flat.mmrt")
    assert np.array_equal(flat(x[:1], z[0])[0], x[:1] * z[0])
    with pytest.raises(ValueError, match="one sample at a time: the shape of v does not begin with 1"):
        flat(x, z[0])


def test_a_file_whose_own_shape_is_a_batch(mmrt, tmp_path):
    weight = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)
    alone, paired = (onnx_of([("Conv", ["x", "w"], "y")], {"x": (n, 3, 8, 8)}, {"y": (n, 4, 6, 6)}, {"w": weight})
                     for n in (1, 2))
    for name, made in (("alone", alone), ("paired", paired)):
        write_mmrt(made, tmp_path / f"{name}.mmrt")
    images = np.random.default_rng(5).standard_normal((2, 3, 8, 8), np.float32)
    one, two = (mmrt.Model(tmp_path / f"{name}.mmrt") for name in ("alone", "paired"))
    assert np.allclose(two(images)[0], one(images)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 8, 8\), got \(4, 3, 8, 8\)"):
        two(np.concatenate([images, images]))


def test_a_library_older_than_the_python_file_is_named(tmp_path, built, mmrt):
    (tmp_path / "old.c").write_text("int mmrt_load(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "old.so", tmp_path / "old.c"], check=True)
    done = subprocess.run([sys.executable, "-c", "import mmrt; mmrt.version()"], capture_output=True, text=True,
                          check=False, env={"MMRT_LIBRARY": str(tmp_path / "old.so"), "PYTHONPATH": str(built)})
    assert "is older than" in done.stderr and "mmprune runtime build" in done.stderr


def test_the_profile_names_each_step(mmrt, model_file):
    steps = mmrt.Model(model_file).profile(np.zeros((1, 3, 8, 8), np.float32))
    convolutions = [s for s in steps if s["op"] == "LINEAR"]
    assert len(convolutions) == 2
    assert all(s["seconds"] >= 0 and s["kernel"] for s in steps)
    assert convolutions[0]["needed_macs"] < 0.35 * convolutions[0]["macs"]


@pytest.mark.parametrize("isa", ["scalar", "sse9"])
def test_forcing_kernels(built, model_file, isa, mmrt):
    code = f"import mmrt; print(mmrt.Model({str(model_file)!r}).kernels)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={"MMRT_ISA": isa, "PYTHONPATH": str(built)})
    if isa == "scalar":
        assert done.stdout == "scalar\n"
    else:
        assert "MMRT_ISA=sse9 is not known" in done.stderr and "scalar" in done.stderr


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_a_damaged_file_is_refused(mmrt, model_file, tmp_path, damage):
    content = bytearray(model_file.read_bytes())
    if damage == "cut":
        content = content[:-1]
    elif damage == "flip":
        content[len(content) // 2] ^= 1
    else:
        content = b"not a model"
    path = tmp_path / "bad.mmrt"
    path.write_bytes(content)
    with pytest.raises(mmrt.MmrtError, match=r"bad\.mmrt"):
        mmrt.Model(path)


def test_wrong_arguments(mmrt, model_file):
    with pytest.raises(mmrt.MmrtError, match="threads"):
        mmrt.Model(model_file, 0)
    with pytest.raises(mmrt.MmrtError, match="No such file"):
        mmrt.Model("nowhere.mmrt")
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\)"):
        mmrt.Model(model_file)(np.zeros((1, 3, 9, 9), np.float32))


def test_the_benchmark_program(built, model_file):
    done = subprocess.run([built / "mmrt-bench", model_file, "--runs", "5"], capture_output=True, text=True, check=True)
    assert "p50" in done.stdout


def test_the_benchmark_program_takes_batches_and_several_inputs(built, model_file, tmp_path, mmrt):
    def bench(*words):
        return subprocess.run([built / "mmrt-bench", *words, "--runs", "2", "--json"], capture_output=True, text=True,
                              check=False)

    assert json.loads(bench(model_file, "--batch", "3").stdout)["batch"] == 3
    write_mmrt(onnx_of([("Add", ["x", "z"], "y")], {"x": (1, 4), "z": (1, 4)}, {"y": (1, 4)}), tmp_path / "two.mmrt")
    np.zeros(8, np.float32).tofile(tmp_path / "pair.raw")
    inputs = ("--input", tmp_path / "pair.raw") * 2
    assert bench(tmp_path / "two.mmrt", "--batch", "2", *inputs).returncode == 0
    assert "does not hold 12 float32" in bench(tmp_path / "two.mmrt", "--batch", "3", *inputs).stderr
    assert "has 1 input(s), but --input" in bench(model_file, *inputs).stderr


def test_the_benchmark_program_s_json(built, model_file, tmp_path):
    path = shutil.copy(model_file, tmp_path / r'a "quoted" \ name.mmrt')
    done = subprocess.run([built / "mmrt-bench", path, "--runs", "2", "--profile", "--json"], capture_output=True,
                          text=True, check=True)
    record = json.loads(done.stdout)
    assert record["file"] == str(path) and record["min_s"] <= record["p50_s"] <= record["p90_s"]
    assert [step["op"] for step in record["steps"]].count("LINEAR") == 2


def kernels_measured(built, **settings) -> list[dict]:
    done = subprocess.run([built / "mmrt-bench", "--kernels", "--json"], capture_output=True, text=True, check=True,
                          env=settings)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_of_every_set_is_measured_by_itself(built):
    named = set(re.findall(r"^KERNEL\((\w+),", (RUNTIME / "src" / "kernels.inc").read_text(), re.MULTILINE))
    rows = kernels_measured(built)
    assert {row["kernels"] for row in rows} <= set(KERNELS[platform.machine()])
    for kernels in {row["kernels"] for row in rows}:
        lacks = {"columns", "qcolumns"} if kernels in ("neon", "neon_dotprod", "scalar") else (
            {"qcolumns"} if "vnni" not in kernels else set())
        assert {row["kernel"] for row in rows if row["kernels"] == kernels} == named - lacks
    assert all(row["rate"] > 0 and row["share_of_peak"] > 0 and row["shape"] for row in rows)
    assert {row["unit"] for row in rows} == {"GMAC/s", "GB/s"}


def test_one_set_alone_is_measured_where_it_is_forced(built):
    assert {row["kernels"] for row in kernels_measured(built, MMRT_ISA="scalar")} == {"scalar"}
    done = subprocess.run([built / "mmrt-bench", "--kernels"], capture_output=True, text=True, check=False,
                          env={"MMRT_ISA": "sse9"})
    assert done.returncode == 1 and "MMRT_ISA=sse9 is not known" in done.stderr


@pytest.mark.parametrize("path", sorted(RUNTIME.glob("src/kernels/*.h")) + sorted(RUNTIME.glob("src/simd/*.h")),
                         ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_kernels_ask_for_no_instruction_set(path):
    """What differs between instruction sets is a function or a constant of their headers in simd/."""
    assert not re.findall(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b", path.read_text(), re.MULTILINE)


def test_the_c_program_of_the_docs(built, model_file, tmp_path, mmrt):
    """Exactly the text of docs/runtime.md is compiled and run, and it is the example that is deployed."""
    source = re.search(r"```c\n(.*?)```", (ROOT / "docs" / "runtime.md").read_text(), re.DOTALL).group(1)
    assert source == (RUNTIME / "examples" / "run.c").read_text()
    (tmp_path / "run.c").write_text(source)
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-I", RUNTIME / "include", tmp_path / "run.c", "-L", built,
                    "-lmmrt", "-o", tmp_path / "run"], check=True)

    def run(*words):
        return subprocess.run([tmp_path / "run", *words], capture_output=True, text=True, check=False,
                              env={"LD_LIBRARY_PATH": str(built)})

    image = np.random.default_rng(6).standard_normal((1, 3, 8, 8), np.float32)
    image.tofile(tmp_path / "image.raw")
    answer, = mmrt.Model(model_file)(image)
    assert run(model_file, tmp_path / "image.raw").stdout == f"output: {' '.join(f'{v:g}' for v in answer.flat)}\n"
    assert len(run(model_file).stdout.split()) == 5
    image[:, :2].tofile(tmp_path / "short.raw")
    assert "short.raw: not 192 numbers for input" in run(model_file, tmp_path / "short.raw").stderr
    assert run().returncode == 2
