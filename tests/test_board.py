"""Measuring over ssh for real: an emulated Raspberry Pi with a kernel, an ssh server and a Python of its own.

What comes home is marked as emulated and stands in no table.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import boards
import numpy as np
import onnx
import pytest
from families import made_artifact, made_family, made_variant
from onnx import TensorProto, helper, numpy_helper

from exporters import load
from exporters.to_mmrt import write_mmrt
from mmprune import folder
from mmprune.results.points import PointsError, read_points
from targets.golden import answer
from targets.host import HostError
from targets.jobs import Profile
from targets.measure import MeasureError, Options, measure

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None,
    reason="needs aarch64-linux-gnu-g++: apt-get install g++-aarch64-linux-gnu")]

TINY = Profile("smoke", samples=4, seconds=5, rounds=2, restarts=1)


def model() -> onnx.ModelProto:
    """A convolution of 3 to 16 channels, mean, classifier: 0.1 million multiply-accumulates; a tenth is not zero."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((16, 3, 3, 3), np.float32) * (random.random((16, 3, 3, 3)) < 0.1)
    nodes = [helper.make_node("Conv", ["input", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["a"], ["b"]), helper.make_node("GlobalAveragePool", ["b"], ["c"]),
             helper.make_node("Flatten", ["c"], ["d"]), helper.make_node("Gemm", ["d", "v", "bias"], ["logits"])]
    tensors = {"w": weights.astype(np.float32), "v": random.standard_normal((16, 5), np.float32),
               "bias": np.ones(5, np.float32)}
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
             for name, shape in (("input", [1, 3, 16, 16]), ("logits", [1, 5]))]
    graph = helper.make_graph(nodes, "tiny", *ports,
                              [numpy_helper.from_array(value, name) for name, value in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """(folder, artifacts): one variant as .onnx and .mmrt."""
    root = tmp_path_factory.mktemp("family")
    made_family(root, [("dense", 0.9, 0.9, 0.01)])
    (root / folder.MEASUREMENTS).unlink()
    variant = made_variant(root, "dense", 0.9, 0.9)
    write_mmrt(model(), root / "tiny.mmrt")
    contents = {"onnx": model().SerializeToString(), "mmrt": (root / "tiny.mmrt").read_bytes()}
    return root, [made_artifact(root, variant, format, content) for format, content in contents.items()]


@pytest.fixture(scope="module")
def pi5(tmp_path_factory):
    with boards.board(boards.disk(tmp_path_factory), "pi5") as config:
        yield config


def there(config: Path, command: str) -> str:
    return subprocess.run(["ssh", "-F", config, "pi", command], capture_output=True, text=True, check=True).stdout


def test_emulated_pi_5_runs_both_runtimes_and_answers_as_x86_does(family, pi5):
    (root, artifacts), notes = family, []
    images = np.random.default_rng(1).standard_normal((2, 3, 16, 16), np.float32)
    expected = answer(images, artifacts, lambda a: load(a.format).open_file(root / a.path))
    options = Options(threads=1, gate=False, host="pi", ssh_config=str(pi5), note=notes.append,
                      golden=lambda asked: expected)
    made = measure(root, artifacts, "raspberry-pi-5", TINY, options)
    assert {(m.runtime, m.artifact) for m in made} == {("mmrt", artifacts[1].id), ("onnxruntime", artifacts[0].id)}
    assert {m.provenance for m in made} == {"emulated"}
    assert folder.read_measurements(root) == made
    with pytest.raises(PointsError, match="emulated"):
        read_points(root)
    assert made[0].device.board.startswith("Raspberry Pi 5") and "asimddp" in made[0].device.isa
    assert {m.runtime: m.settings for m in made}["mmrt"] == {"kernels": "neon_dotprod"}

    told, = notes
    words = r"outputs on the board: 2 compared with this machine's, largest difference (\S+) of .*"
    difference = re.fullmatch(words, told)
    assert difference and float(difference[1]) <= 1e-4


def test_emulated_pi_5_is_cleaned_when_the_connection_drops(family, pi5):
    root, artifacts = family

    def drop(stage, item, done, total):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if b"\0-M\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)

    options = Options(runtimes=("null",), gate=False, host="pi", ssh_config=str(pi5), progress=drop, again=True)
    with pytest.raises(HostError, match=r"the connection to pi dropped .* run the same command again"):
        measure(root, artifacts[:1], "raspberry-pi-5", TINY, options)
    until = time.monotonic() + 60
    while (left := there(pi5, "ls /tmp")) and time.monotonic() < until:
        time.sleep(1)
    assert left == ""


def test_emulated_pi_5_without_space(family, pi5):
    root, artifacts = family
    fill = "os.posix_fallocate(os.open('/tmp/full', os.O_CREAT | os.O_RDWR), 0, shutil.disk_usage('/tmp').free - 2**23)"
    there(pi5, f'python3 -c "import os, shutil; {fill}"')
    try:
        with pytest.raises(HostError, match=r"no space: \d+ MiB are needed, but /tmp has only \d+ MiB free.*free some"):
            measure(root, artifacts, "raspberry-pi-5", TINY, Options(host="pi", ssh_config=str(pi5)))
    finally:
        there(pi5, "rm /tmp/full")


def test_emulated_pi_5_with_another_host_key_or_without_our_key(family, pi5, tmp_path):
    (root, artifacts), text = family, pi5.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    known = text.split("UserKnownHostsFile ")[1].splitlines()[0]
    address = Path(known).read_text().split()[0]
    (tmp_path / "known").write_text(f"{address} {(tmp_path / 'other.pub').read_text()}")
    identity = text.split("IdentityFile ")[1].splitlines()[0]
    for wrong, right, message in ((tmp_path / "known", known, "its host key has changed"),
                                  (tmp_path / "other", identity, "ssh-copy-id pi")):
        (tmp_path / "config").write_text(text.replace(right, str(wrong)))
        with pytest.raises(HostError, match=message):
            measure(root, artifacts, "raspberry-pi-5", TINY, Options(host="pi", ssh_config=str(tmp_path / "config")))


def test_emulated_pi_4_is_no_pi_5_and_nothing_stays_there(family, tmp_path_factory):
    root, artifacts = family
    with boards.board(boards.disk(tmp_path_factory), "pi4") as config:
        for target, why in (("raspberry-pi-5", "its name is 'Raspberry Pi 4 Model B Rev 1.4'"),
                            ("x86", "its processor is aarch64, but x86 has x86_64")):
            with pytest.raises(MeasureError, match=f"pi is not a {target}: {why}"):
                measure(root, artifacts, target, TINY, Options(host="pi", ssh_config=str(config)))
        assert there(config, "ls /tmp") == ""
