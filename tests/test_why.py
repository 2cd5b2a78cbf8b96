"""Why zeros save time or not: planted cases with known answers, times that add up, and text of 80 columns."""

import json
from dataclasses import replace

import onnx
import pytest
from families import RECIPE, SOURCE, made_artifact, made_measurement, made_variant
from onnx import TensorProto, helper

from mmprune import folder
from mmprune.records import ImageCounts, Layer, Manifest, Range, Spec, Step, Task
from mmprune.why.explain import explained, step_cost_s
from mmprune.why.reasons import Facts, reason
from mmprune.why.record import append_why, read_why
from mmprune.why.show import main_reason, why_json, why_text
from mmprune.why.tensorrt import explained_in_tensorrt


def told(kind="conv", sparsity=0.9, work=(1.0, 0.6), runtime="mmrt", **more):
    layer = Layer("a.weight", kind, 0.5, (64, 64, 3, 3), 1000)
    step = Step("a", "LINEAR", "kernel", (1.0,), (), work)
    facts = Facts(layer, None, sparsity, 1.0, None, (step,), runtime, "fp32")
    return reason(replace(facts, **more))


def test_planted_reasons():
    sparse = told(work=(0.1, 0.6))
    assert (sparse.skips, sparse.why) == (0.9, "skips zeros")
    few = told(sparsity=0.2, range=Range(0.0, 0.3))
    assert few.skips == 0 and few.why == ("below break-even: skipping pays from 40% zeros; the rules allow 30% (conv)")
    assert few.helps == "--ranges with [kinds] conv = [0.5, 0.9]"
    assert told(sparsity=0.2).helps == "a sparser strategy: more than 40% zeros in this layer"
    assert told("grouped", 0.2).why.startswith("grouped convolution, below break-even")
    assert told("depthwise", 0.9, (1.0, 0.0)).why.startswith("depthwise convolution")
    assert told("stem", 0.0).why == told("stem", 0.0, runtime="openvino").why == "kept dense by the rules: stem"
    assert told(runtime="onnxruntime", work=None).why == "ONNX Runtime has no sparse kernels"
    assert "no zeros here" in told(runtime="openvino").why
    assert told(steps=()).why.startswith("no step of the profile computes it")


def test_int8_skips_whole_blocks_only():
    scattered = told(sparsity=0.8, precision="int8", in_blocks=0.3, work=(1.0, 0.55))
    assert scattered.why == "only 30% of its weights are zeros in whole blocks of 1x4; int8 skips those from 45%"
    assert scattered.helps == "--pattern block-1x4"
    assert told(sparsity=0.8, precision="int8", in_blocks=0.8, work=(0.2, 0.55)).skips == pytest.approx(0.8)


def test_removed_channels_save_time_on_every_runtime():
    half = told(runtime="onnxruntime", kept=0.5, sparsity=0.5)
    assert half.skips == 0.5 and half.why == "50% of its weights went with whole channels"
    more = told(runtime="onnxruntime", kept=0.5, sparsity=0.9)
    assert more.skips == 0.5 and more.why.endswith("; ONNX Runtime has no sparse kernels")
    assert told(kept=0.5, sparsity=0.9, work=(0.2, 0.6)).skips == pytest.approx(0.9)


CONV, FC = Layer("conv.weight", "conv", 0.0, (8, 1, 1, 1), 100), Layer("fc.weight", "classifier", 1.0, (3, 8), 24)
STEPS = (("/conv", "Conv", "sparse k", (0.25, 0.6)), ("/soft", "Softmax", "nd", None),
         ("/fc", "Gemm", "dense k", (1.0, 0.6)))


@pytest.fixture
def family(tmp_path):
    """(root, manifest, dense file, sparse file): ONNX files of a convolution, a softmax and a linear layer."""
    manifest = Manifest("mmprune build", Spec(RECIPE, ("magnitude",), "unstructured", 0), SOURCE, ImageCounts(8, 1, 1),
                        "e" * 64, (CONV, FC), {"conv.weight": Range(0.5, 0.9), "fc.weight": Range(0.0, 0.3)}, {},
                        "dense-0001", (Task("max-0001", "magnitude", "max"),))
    folder.write_manifest(tmp_path, manifest)
    files = []
    for name, share in (("dense", 0.0), ("max", 0.75)):
        zeros = {"conv.weight": share, "fc.weight": 0.0}
        nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"], "/conv"),
                 helper.make_node("Softmax", ["c"], ["s"], "/soft"),
                 helper.make_node("Gemm", ["s", "fc.weight"], ["y"], "/fc", transB=1)]
        constants = [helper.make_tensor(x.name, TensorProto.FLOAT, x.shape, [1.0] * x.params) for x in (CONV, FC)]
        ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
        model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants))
        artifact = made_artifact(tmp_path, made_variant(tmp_path, name, 0.9, 0.5), "onnx", model.SerializeToString())
        artifact = replace(artifact, precision="fp32", layer_sparsity=zeros)
        folder.write_artifact(tmp_path, artifact)
        files.append(artifact)
    return tmp_path, manifest, *files


def measured(artifact, latency_s, seconds, runtime="mmrt", profiled_s=0.0):
    m = made_measurement(artifact, latency_s, runtime)
    ours = runtime == "mmrt"
    steps = tuple(Step(name, op, kernel if ours else "CPU", (s,) * 10, (), work if ours else None)
                  for (name, op, kernel, work), s in zip(STEPS, seconds, strict=True))
    return replace(m, steps=steps, profiled_s=(profiled_s or latency_s,) * 10)


def asked(family, *measurements):
    root, manifest, dense, sparse = family
    return explained(manifest, [dense, sparse], [dense, sparse], root, measurements)


def test_layers_others_and_what_is_unseen_add_up_to_the_latency(family):
    """10 ms = 4 + 1 + 3 + 2 beside 16 ms = 10 + 1 + 3 + 2 of the dense model."""
    (row,) = asked(family, measured(family[2], 0.016, (0.010, 0.001, 0.003)),
                   measured(family[3], 0.010, (0.004, 0.001, 0.003)))
    assert (row.latency_s, row.dense_latency_s, row.variant) == (0.010, 0.016, "max")
    conv, fc = row.layers
    assert (conv.layer, conv.seconds, conv.dense_seconds) == ("conv.weight", 0.004, 0.010)
    assert (conv.skips, conv.why, conv.kernel, conv.sparsity) == (0.75, "skips zeros", "sparse k", 0.75)
    assert (fc.seconds, fc.skips, fc.why) == (0.003, 0.0, "kept dense by the rules: classifier")
    assert [(o.op, o.steps, o.seconds) for o in row.others] == [("Softmax", 1, 0.001)]
    assert row.unseen_s == pytest.approx(0.002) and row.steps_s == pytest.approx(0.008)
    assert row.notes == ("the steps add up to 80% of the latency",)
    total = sum(x.seconds for x in row.layers) + sum(o.seconds for o in row.others) + row.unseen_s
    assert total == pytest.approx(row.latency_s)


def test_the_time_that_a_profile_takes_within_each_step_is_taken_off_and_told(family):
    """Steps of 5, 2 and 4 ms, of which 2 are the profile's: the cheapest step does nothing else. 16 - 10 = 3 * 2 ms."""
    m = measured(family[3], 0.010, (0.005, 0.002, 0.004), "onnxruntime", profiled_s=0.016)
    (row,) = asked(family, m)
    assert row.step_cost_s == 0.002 and [x.seconds for x in row.layers] == pytest.approx([0.003, 0.002])
    assert row.dense_latency_s is None and row.layers[0].dense_seconds is None
    assert step_cost_s(replace(m, profiled_s=(0.013,) * 10), [0.005, 0.002, 0.004], 0.010) == pytest.approx(0.001)
    assert step_cost_s(replace(m, profiled_s=(0.009,) * 10), [0.005, 0.002, 0.004], 0.010) == 0
    assert "2000.0 us within each step" in " ".join(why_text([row], every=True).split())


def test_where_zeros_are_skipped_is_what_helps_elsewhere(family):
    rows = asked(family, measured(family[3], 0.010, (0.004, 0.001, 0.003)),
                 measured(family[3], 0.014, (0.009, 0.001, 0.003), "onnxruntime"))
    layer = next(row for row in rows if row.runtime == "onnxruntime").layers[0]
    assert (layer.why, layer.helps) == ("ONNX Runtime has no sparse kernels", "mmrt fp32, which skips its zeros")
    assert layer.helped_s == 0.004


def test_skipping_that_gains_nothing_is_said(family):
    (row,) = asked(family, measured(family[2], 0.010, (0.004, 0.001, 0.003)),
                   measured(family[3], 0.010, (0.004, 0.001, 0.003)))
    assert row.layers[0].why.startswith("skips zeros, but takes as long") and "block-4x1" in row.layers[0].helps


def test_text_fits_80_columns_and_leads_with_the_answer(family):
    long = Layer("layers.2.blocks.5.attn.a_rather_long_name.proj.weight", "conv", 1.0, (8, 1, 1, 1), 100)
    root, manifest, dense, sparse = family
    more = [replace(long, name=f"{i}.{long.name}") for i in range(20)]
    manifest = replace(manifest, layers=(*manifest.layers, *more))
    rows = asked((root, manifest, dense, sparse), measured(dense, 0.016, (0.010, 0.001, 0.003)),
                 measured(sparse, 0.010, (0.004, 0.001, 0.003)),
                 measured(sparse, 0.014, (0.009, 0.001, 0.003), "onnxruntime"))
    for every in (False, True):
        text = why_text(rows, every)
        assert max(map(len, text.splitlines())) <= 80
        assert " ".join(text.split()).startswith(
            "max is fastest as mmrt fp32: 10.00 ms (0.62 of the dense model); 30 % of the time goes into 1 layer that "
            "skips no zeros, 40 % of the time goes into 1 layer that skips zeros, 30 % into other steps. fc: kept "
            "dense by the rules: classifier")
    assert text.count("a_rather_long_name.proj") == 40, "every layer on both runtimes"
    assert "10 more (--all)" in why_text(rows, every=False)
    assert main_reason(rows[0]).strip().startswith("fc: kept dense")
    assert [row["runtime"] for row in json.loads(why_json(rows))] == ["mmrt", "onnxruntime"]


def test_a_busy_machine_is_named(family):
    m = replace(measured(family[3], 0.010, (0.004, 0.001, 0.003)), waited_s=(0.05,) * 10, waits=(9,) * 10)
    (row,) = asked(family, m)
    assert "took the CPU in all 10 rounds" in row.notes[0]
    assert "note: other programs took the CPU in all 10 rounds" in why_text([row], every=True)


def test_the_newest_record_of_a_file_counts(family):
    root = family[0]
    assert read_why(root) == []
    first = asked(family, measured(family[3], 0.010, (0.004, 0.001, 0.003)))
    append_why(root, first)
    second = asked(family, measured(family[3], 0.020, (0.004, 0.001, 0.003)))
    append_why(root, second)
    assert read_why(root) == second
    with open(root / "why.jsonl", "a") as f:
        f.write("{}\n")
    with pytest.raises(RuntimeError, match=r"why\.jsonl, line 3 is not a record"):
        read_why(root)


def test_a_mmrt_file_without_its_onnx_file_is_refused(family):
    root, manifest, _, sparse = family
    lone = replace(sparse, id="max-0001/mmrt-int8", format="mmrt", precision="int8")
    with pytest.raises(RuntimeError, match="made from an ONNX file that is no longer here"):
        explained(manifest, [lone], [lone], root, [measured(lone, 0.01, (0.004, 0.001, 0.003))])


WIDE = (("fits", (256, 256)), ("narrow", (64, 64)), ("odd", (12, 64)), ("dense", (256, 256)))  # (outputs, inputs)


def test_tensorrt_is_explained_from_the_file_and_what_the_board_said(tmp_path):
    """Of four layers three are 2:4; of these one has too few outputs, and 12 is no multiple of 8."""
    layers = tuple(Layer(f"{name}.weight", "linear", i / 3, shape, 1) for i, (name, shape) in enumerate(WIDE))
    manifest = Manifest("mmprune build", Spec(RECIPE, ("magnitude",), "2:4", 0), SOURCE, ImageCounts(8, 1, 1), "e" * 64,
                        layers, {}, {}, "dense-0001", (Task("max-0001", "magnitude", "max"),))
    nodes = [helper.make_node("MatMul", [f"x{i}", x.name], [f"y{i}"], x.name) for i, x in enumerate(layers)]
    constants = [helper.make_tensor(x.name, TensorProto.FLOAT, x.shape[::-1],
                                    [float(x.name.startswith("dense") or i // x.shape[0] % 4 < 2)
                                     for i in range(x.params)]) for x in layers]
    ports = [[helper.make_tensor_value_info(f"{p}{i}", TensorProto.FLOAT, None) for i in range(4)] for p in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", *ports, constants))
    artifact = made_artifact(tmp_path, made_variant(tmp_path, "max", 0.9, 0.5), "tensorrt", model.SerializeToString())
    m = made_measurement(artifact, 0.010, "tensorrt")
    for chosen, fits in (("2, 1", "2:4 eligible, a sparse tactic is likely"),
                         ("0, 0", "2:4 eligible, dense tactic picked: TensorRT measured it to be faster")):
        settings = {"eligible layers": "2, 2", "chosen layers": chosen, "sparse kernels": chosen}
        folder.append_measurement(tmp_path, replace(m, settings=settings))
        (row,) = explained_in_tensorrt(tmp_path, manifest, "max-0001", [artifact])
        assert [x.why for x in row.layers[2:]] == [
            "2:4, but no sparse kernel takes its shape: 64 inputs and 12 outputs are not multiples of 16 and 8",
            "not 2:4: some groups of four weights have more than two that are not zero"]
        assert row.layers[0].why == fits and row.layers[3].helps == "--pattern 2:4"
        narrow = row.layers[1].why
        assert narrow == fits if chosen == "0, 0" else "sums over 64, 64 outputs: below 256" in narrow
        text = why_text([row], every=True)
        assert max(map(len, text.splitlines())) <= 80
        assert f"found 2, 2 layers eligible and chose sparse tactics for {chosen}" in " ".join(text.split())
    assert explained_in_tensorrt(tmp_path, manifest, "max-0001", []) == []


def test_onnx_is_what_the_fixture_says(family):
    assert onnx.load(family[0] / family[3].path).graph.node[0].name == "/conv"
