"""The table of targets: every row, a user's own file, and which boards belong to which."""

import dataclasses

import pytest
from click.testing import CliRunner
from families import DEVICE

from exporters.wanted import wanted_formats
from mmprune.cli.commands import cli
from mmprune.patterns import PATTERNS
from targets import LOCAL, TARGETS, load, mismatch, pattern_for

PI_5 = dataclasses.replace(DEVICE, board="Raspberry Pi 5 Model B Rev 1.0", isa=("asimd", "asimddp", "asimdhp", "fphp"),
                           versions={"machine": "aarch64"})
PI_4 = dataclasses.replace(PI_5, board="Raspberry Pi 4 Model B Rev 1.4", isa=("asimd",))
ORIN = dataclasses.replace(PI_5, board="NVIDIA Jetson Orin Nano Developer Kit")
N100 = dataclasses.replace(DEVICE, isa=("avx2", "fma"), versions={"machine": "x86_64"})


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_whole(name):
    target = load(name)
    assert target.name == name
    assert target.pattern in PATTERNS
    made = {pair[0] for pair in wanted_formats(target.formats)}
    assert made == set(target.runtimes.values())


MMRT, FLOAT, ONNX, ENGINE = ("mmrt", "int8"), ("mmrt", "fp32"), ("onnx", "int8"), ("tensorrt", "int8")
WIDE = ("avx2", "avx512f")


@pytest.mark.parametrize(("name", "wanted", "isa", "pattern"), [
    ("x86", [MMRT], (), "block-1x4"),
    ("raspberry-pi-4", [MMRT, ONNX], (), "block-1x4"),
    ("x86", [MMRT, FLOAT], WIDE, "block-1x4"),  # one pattern a family, and int8 is the faster one
    ("x86", [MMRT, ("onnx", "fp32")], WIDE, "block-1x4"),
    ("x86", [FLOAT, ONNX], WIDE, "block-4x1"),
    ("x86", [FLOAT], ("avx2",), "unstructured"),
    ("x86-avx2", [FLOAT], (), "unstructured"),
    ("raspberry-pi-5", [FLOAT], (), "unstructured"),
    ("x86", [ONNX, ("openvino", "fp32")], WIDE, "unstructured"),  # no other runtime skips blocks
    ("x86", [], WIDE, "unstructured"),
    ("jetson-orin", [ENGINE], (), "2:4"),
    ("jetson-orin-nano", [("tensorrt", "fp16"), ENGINE], (), "2:4"),
])
def test_the_pattern_that_pays(name, wanted, isa, pattern):
    found, why = pattern_for(load(name), wanted, isa)
    assert found == pattern and why


def test_single_zeros_on_x86_say_that_blocks_are_for_avx512():
    assert "AVX-512, which x86-avx2 does not have" in pattern_for(load("x86-avx2"), [FLOAT])[1]
    assert "AVX-512, which x86 is not known to have" in pattern_for(load("x86"), [FLOAT])[1]
    assert "AVX-512" not in pattern_for(load("raspberry-pi-5"), [FLOAT])[1]


def test_a_pattern_in_a_user_s_file_is_kept(tmp_path):
    (tmp_path / "b.toml").write_text('like = "raspberry-pi-5"\npattern = "2:4"')
    assert pattern_for(load(str(tmp_path / "b.toml")), [MMRT]) == ("2:4", "the pattern of b")
    (tmp_path / "c.toml").write_text('like = "x86"\nisa = ["avx512f"]')
    assert pattern_for(load(str(tmp_path / "c.toml")), [FLOAT])[0] == "block-4x1"


@pytest.mark.parametrize(("name", "board", "why"), [
    ("raspberry-pi-5", PI_5, ""),
    ("raspberry-pi-4", PI_4, ""),
    ("raspberry-pi-5", ORIN, "its name is 'NVIDIA Jetson Orin Nano Developer Kit', which is not a Raspberry Pi 5"),
    ("jetson-orin-nano", ORIN, ""),
    ("jetson-orin-nx", ORIN, "its name is 'NVIDIA Jetson Orin Nano Developer Kit', which is not a Orin NX"),
    ("jetson-orin", ORIN, "its name is 'NVIDIA Jetson Orin Nano Developer Kit', which is not a AGX Orin"),
    ("jetson-orin", dataclasses.replace(PI_5, board="NVIDIA Jetson AGX Orin Developer Kit"), ""),
    ("jetson-orin-nx", dataclasses.replace(
        PI_5, board="NVIDIA Jetson Orin NX Engineering Reference Developer Kit"), ""),
    ("x86-avx2", N100, ""),
    ("raspberry-pi-4", PI_5, "its name is 'Raspberry Pi 5 Model B Rev 1.0', which is not a Raspberry Pi 4"),
    ("raspberry-pi-5", dataclasses.replace(PI_5, isa=("asimd",)), "its processor lacks asimddp, asimdhp"),
    ("x86", PI_5, "its processor is aarch64, but x86 has x86_64"),
    ("x86-avx2", dataclasses.replace(N100, isa=("avx2", "fma", "avx512f")), "its processor has avx512f, which"),
])
def test_boards_are_recognised(name, board, why):
    found = mismatch(load(name), board)
    assert found.startswith(why) and bool(found) == bool(why)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'x86'"):
        load("x68")
    with pytest.raises(ValueError, match="did you mean 'raspberry-pi-4'"):
        load("raspberrypi-4")


def test_a_board_of_the_users_own(tmp_path):
    lines = ('like = "raspberry-pi-5"', 'what = "a CM5 in a box"', 'board = "Compute Module 5"', "threads = 2")
    (tmp_path / "my-board.toml").write_text("\n".join(lines))
    mine = load(str(tmp_path / "my-board.toml"))
    assert (mine.name, mine.board, mine.threads) == ("my-board", "Compute Module 5", 2)
    assert mine.runtimes == TARGETS["raspberry-pi-5"].runtimes and mine.isa == TARGETS["raspberry-pi-5"].isa


@pytest.mark.parametrize(("text", "why"), [
    ("threads = ", "Invalid value"),
    ('like = "raspberry-pi-5"\ncolour = "green"', "no field called 'colour'"),
    ('arch = "aarch64"', "'runtimes' is missing"),
    ('like = "raspberry-pi-5"\narch = "riscv64"', "no arch called 'riscv64'"),
    ('like = "raspberry-pi-5"\nthreads = 0', "threads must be 1 or more"),
    ('like = "raspberry-pi-5"\nthreads = "4"', "b.toml.threads must be of type int, got '4'"),
    ('like = "raspberry-pi-5"\nisa = "asimd"', "b.toml.isa must be a list, got 'asimd'"),
    ('like = "x86"\nruntimes = {onnxruntme = "onnx"}', "target b has no runtime called 'onnxruntme'.*'onnxruntime'"),
    ('like = "raspberry-pi-9"', "no target called 'raspberry-pi-9'"),
])
def test_what_is_wrong_with_a_users_file_is_said(tmp_path, text, why):
    (tmp_path / "b.toml").write_text(text)
    with pytest.raises(ValueError, match=why):
        load(str(tmp_path / "b.toml"))
    with pytest.raises(ValueError, match=r"absent\.toml: No such file"):
        load(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("name", [*TARGETS, LOCAL])
def test_the_runtime_can_be_built_for_every_target(monkeypatch, tmp_path, name):
    asked = []
    monkeypatch.setattr("mmprune.runtime_files.build_runtime", lambda arch, out: asked.append(arch) or [])
    assert CliRunner().invoke(cli, ["runtime", "build", "--target", name, "--out", str(tmp_path)]).exit_code == 0
    assert asked == [load(name).arch]


@pytest.mark.parametrize(("machine", "arch", "power"), [("x86_64", "x86_64", "rapl"), ("aarch64", "aarch64", "")])
def test_this_machine_is_what_its_architecture_is_and_asks_for_nothing(monkeypatch, machine, arch, power):
    monkeypatch.setattr("targets.platform.machine", lambda: machine)
    here = load(LOCAL)
    assert (here.arch, here.power, here.isa, here.lacks, here.board, here.threads) == (arch, power, (), (), "", 1)


def test_a_machine_of_another_architecture_is_told_which_there_are(monkeypatch):
    monkeypatch.setattr("targets.platform.machine", lambda: "riscv64")
    with pytest.raises(ValueError, match=r"no arch called 'riscv64' \(choose from x86_64, aarch64\)"):
        load(LOCAL)
