"""The probe as the device sees it: a program of its own, driven by a job, answering in JSON lines."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest
from families import DEVICE

from mmprune.from_json import from_json
from mmprune.records import Measurement
from mmprune.results.disturbed import disturbed_rounds
from mmprune.results.speedup import compare
from targets.answers import SessionInfo, measurement_from_probe
from targets.on_device import board, clocks, power, probe, sysfs, watch

HOME = Path(__file__).parents[1] / "targets"  # the folder above on_device, as on a board
PROBE = [sys.executable, "-m", "on_device.probe"]
ODD_PROBE = [sys.executable, str(Path(__file__).parent / "support" / "odd_runtimes.py")]
TINY = {"samples": 8, "seconds": 10, "rounds": 2, "restarts": 1}


def entry(folder, name, content="model", runtime="null", **more):
    (folder / name).write_text(content)
    return {"artifact": name, "path": name, "files": [name], "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "runtime": runtime, "threads": 1, **more}


def run(folder, entries, probe=PROBE, profile=TINY, home=HOME, **more):
    job = {"schema": 1, "root": str(folder), "profile": profile, "entries": entries, "timeout_s": 20, **more}
    done = subprocess.run([*probe, "run", "-"], input=json.dumps(job), capture_output=True, text=True, check=False,
                          cwd=home, env={**os.environ, "PYTHONPATH": str(home)})
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and rows[-1] == {"kind": "done"}, done.stderr
    return [r for r in rows if r["kind"] == "result"], [r for r in rows if r["kind"] == "error"]


def test_it_refuses_to_run_inside_mmprune():
    code = "import sys, runpy, mmprune; runpy.run_module('on_device.probe', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "fingerprint", "--target", "x86"], capture_output=True,
                          text=True, cwd=HOME, check=False)
    assert done.returncode == 1 and "not inside mmprune" in done.stderr and done.stdout == ""


def test_the_copied_folder_alone_measures_on_a_bare_python(tmp_path):
    """No site-packages, no checkout: what travels needs nothing that does not travel with it."""
    venv.create(tmp_path / "bare", symlinks=True)
    shutil.copytree(HOME / "on_device", tmp_path / "board" / "on_device", ignore=shutil.ignore_patterns("__pycache__"))
    python, there = str(tmp_path / "bare" / "bin" / "python"), tmp_path / "board"
    alone = {"cwd": there, "env": {"PATH": os.defpath}, "capture_output": True, "text": True}
    done = subprocess.run([python, "-c", "import mmprune"], check=False, **alone)
    assert "No module named 'mmprune'" in done.stderr
    done = subprocess.run([python, "-m", "on_device.probe", "fingerprint", "--target", "x86"], check=False, **alone)
    assert json.loads(done.stdout)["versions"].keys() >= {"machine", "python"}, done.stderr
    job = {"schema": 1, "root": ".", "profile": TINY, "entries": [entry(there, "dense"), entry(there, "sparse")]}
    done = subprocess.run([python, "-m", "on_device.measure", "-"], input=json.dumps(job), check=False, **alone)
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert [kind for kind in kinds if kind != "progress"] == ["result", "result", "done"], done.stderr


def test_the_fingerprint_is_the_same_twice_and_whole():
    rows = [json.loads(subprocess.check_output([*PROBE, "fingerprint", "--target", "x86"], cwd=HOME))
            for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0]["cores"] >= 1 and rows[0]["ram_bytes"] > 2**28 and rows[0]["versions"]["python"]


def test_the_null_runtime_end_to_end(tmp_path):
    results, errors = run(tmp_path, [entry(tmp_path, "dense"), entry(tmp_path, "sparse")])
    assert errors == [] and [r["artifact"] for r in results] == ["dense", "sparse"]
    for r in results:
        assert len(r["latencies_s"]) == 2 and r["part"] == 1 and r["throttled"] is False
        assert all(s >= 0.001 for turn in r["latencies_s"] for s in turn)  # it sleeps 1 ms
        assert len(r["warmup_s"]) >= 10 and r["first_s"] >= 0.001 and r["load_s"] >= 0
        assert r["peak_bytes"] >= r["empty_bytes"] > 2**20  # the memory pass
    assert len(results[0]["latencies_s"]) == len(results[1]["latencies_s"])  # every round can be paired


def test_restarts_share_the_rounds(tmp_path):
    results, _ = run(tmp_path, [entry(tmp_path, "dense")], profile={**TINY, "restarts": 2, "rounds": 4})
    assert len(results[0]["latencies_s"]) == 4 and results[0]["processes"] == [2, 2]


def test_a_file_that_is_not_the_recorded_one_is_refused(tmp_path):
    entries = [entry(tmp_path, "dense"), {**entry(tmp_path, "sparse"), "sha256": "0" * 64}, entry(tmp_path, "gone")]
    (tmp_path / "gone").unlink()
    results, errors = run(tmp_path, entries)
    assert [r["artifact"] for r in results] == ["dense"]
    assert "not the recorded 0000000000000000" in errors[0]["message"] and errors[0]["artifact"] == "sparse"
    assert "cannot read" in errors[1]["message"]


def test_unknown_and_broken_runtimes_are_named(tmp_path):
    _, errors = run(tmp_path, [entry(tmp_path, "a", runtime="onnxruntim"), entry(tmp_path, "b", runtime="onnxruntime")])
    assert "did you mean 'onnxruntime'?" in errors[0]["message"]
    assert errors[1]["message"].startswith("b on onnxruntime: ") and errors[1]["threads"] == 1  # not an ONNX file


def test_dead_and_hanging_workers_give_error_rows_and_the_others_go_on(tmp_path):
    entries = [entry(tmp_path, name, name, "odd") for name in ("noisy", "dies", "hangs")]
    results, errors = run(tmp_path, entries, ODD_PROBE, timeout_s=2)
    assert [r["artifact"] for r in results] == ["noisy"]  # although it prints on stdout
    messages = {e["artifact"]: e["message"] for e in errors}
    assert "failed with exit status 3: " in messages["dies"] and messages["dies"].endswith("the board is on fire")
    assert "no response within 2 s" in messages["hangs"]


def test_the_faster_of_two_is_faster(tmp_path):
    results, _ = run(tmp_path, [entry(tmp_path, name, name, "odd") for name in ("slow", "fast")], ODD_PROBE)
    slow, fast = (sorted(s for turn in r["latencies_s"] for s in turn) for r in results)
    assert fast[len(fast) // 2] < 0.9 * slow[len(slow) // 2]


def test_what_memory_does_not_hold_comes_in_parts_with_the_reference(tmp_path):
    entries = [entry(tmp_path, name) for name in ("a", "b", "c")]
    entries[1]["reference"] = True
    peak = run(tmp_path, entries[:1])[0][0]["peak_bytes"]
    results, errors = run(tmp_path, entries, memory_bytes=int(peak * 2.5))
    assert errors == [] and [(r["part"], r["artifact"]) for r in results] == [(1, "b"), (1, "a"), (2, "b"), (2, "c")]
    results, errors = run(tmp_path, entries, memory_bytes=int(peak * 1.5))
    assert results == [] and len(errors) == 2 and "are free beside the reference" in errors[0]["message"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_runtime_runs_a_real_model(tmp_path, runtime):
    pytest.importorskip(runtime)
    onnx = pytest.importorskip("onnx")
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g",
                              [helper.make_tensor_value_info("x", f32, ["batch", 3, 8, 8])],
                              [helper.make_tensor_value_info("y", f32, ["batch", 3, 8, 8])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "relu.onnx").write_bytes(model.SerializeToString())
    row = {"artifact": "relu", "path": "relu.onnx", "files": ["relu.onnx"], "runtime": runtime, "threads": 1,
           "sha256": hashlib.sha256(model.SerializeToString()).hexdigest()}
    results, errors = run(tmp_path, [row])
    assert errors == []
    assert results[0]["runtime_version"] and results[0]["peak_bytes"] > results[0]["empty_bytes"]
    assert results[0]["settings"].get("precision", "f32") == "f32"


# ----------------------------------------------------------------------------------------- what a board says of itself
# Trees of /sys, /proc and /etc as the kernels of these boards lay them out, and commands that print what is documented.
# Whatever is read from such a tree is marked as emulated, so that it can never stand as a measurement.

CPU = "sys/devices/system/cpu/"
STAT = "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0\n"
PI_5 = {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp\nCPU implementer\t: 0x41\n"
                        "CPU part\t: 0xd0b\n",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n",
        "proc/stat": STAT.format(busy=100, idle=900), "proc/1/comm": "systemd\n", "proc/812/comm": "labwc\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n", "sys/class/thermal/thermal_zone0/temp": "48350\n",
        CPU + "cpu0/cpufreq/scaling_governor": "ondemand\n", CPU + "cpu0/cpufreq/cpuinfo_min_freq": "1500000\n",
        CPU + "cpu0/cpufreq/cpuinfo_max_freq": "2400000\n", CPU + "cpufreq/policy0/scaling_governor": "ondemand\n",
        CPU + "cpufreq/policy0/scaling_cur_freq": "2400000\n", CPU + "cpufreq/policy0/scaling_max_freq": "2400000\n"}
INA = "sys/bus/i2c/drivers/ina3221/1-00{}/hwmon/hwmon{}/"
NANO_RAILS = {INA.format(40, 1) + name: text for name, text in {
    "in1_label": "VDD_IN\n", "in1_input": "5000\n", "curr1_input": "1200\n", "curr1_crit_alarm": "0\n",
    "curr1_max_alarm": "0\n", "in2_label": "VDD_CPU_GPU_CV\n", "in2_input": "5000\n", "curr2_input": "400\n",
    "in3_label": "VDD_SOC\n", "in3_input": "5000\n", "curr3_input": "300\n", "in7_label": "sum of shunt voltages\n",
    "in7_input": "9\n"}.items()}
AGX_RAILS = {**{INA.format(40, 3) + name: text for name, text in {
    "in1_label": "VDD_GPU_SOC", "in1_input": "4968", "curr1_input": "1000", "in2_label": "VDD_CPU_CV",
    "in2_input": "4968", "curr2_input": "500", "in3_label": "VIN_SYS_5V0", "in3_input": "4968", "curr3_input": "1000",
    "update_interval": "40"}.items()}, **{INA.format(41, 4) + name: text for name, text in {
        "in1_label": "NC", "in1_input": "0", "curr1_input": "0"}.items()}}
ORIN_NANO = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
             "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
             "proc/meminfo": "MemTotal: 7600000 kB\nMemAvailable: 5700000 kB\n",
             "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
             "var/lib/dpkg/status": "Package: libnvinfer-bin\nStatus: install ok installed\nVersion: 1.0\n\n"
                                    "Package: libnvinfer10\nStatus: install ok installed\nArchitecture: arm64\n"
                                    "Version: 10.3.0.30-1+cuda12.5\n\nPackage: libz\nVersion: 2\n",
             CPU + "cpufreq/policy0/scaling_governor": "schedutil",
             CPU + "cpufreq/policy4/scaling_governor": "schedutil", **NANO_RAILS}
NVPMODEL = "echo 'NV Power Mode: MAXN_SUPER'; echo 2"
# `vcgencmd pmic_read_adc` of a Raspberry Pi 5, two rails of its twelve and the two voltages without a current
PMIC = """  DDR_VDDQ_A current(4)=0.06000000A
  VDD_CORE_A current(7)=2.00000000A
  DDR_VDDQ_V volt(12)=0.60000000V
  VDD_CORE_V volt(15)=0.85000000V
     EXT5V_V volt(24)=5.09066000V
      BATT_V volt(25)=0.00000000V
"""


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes commands of these names and shell texts, found before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(**texts):
        for name, text in texts.items():
            path = Path(tree(tmp_path / "bin", {name: f"#!/bin/sh\n{text}\n"})) / name
            path.chmod(0o755)

    return make


def test_a_pi_5_says_what_it_is(tmp_path):
    told = board.fingerprint("raspberry-pi-5", tree(tmp_path, PI_5))
    assert told["board"] == "Raspberry Pi 5 Model B Rev 1.0" and told["soc"] == "brcm,bcm2712"
    assert told["cpu"] == "implementer 0x41 part 0xd0b" and "asimddp" in told["isa"] and "i8mm" not in told["isa"]
    assert (told["governor"], told["clock_hz"], told["clock_min_hz"]) == ("ondemand", 2400000000, 1500000000)
    assert (told["desktop"], told["cooler"], told["ram_bytes"]) == ("labwc", "pwm-fan", 8000000 * 1024)
    assert told["versions"]["machine"] == os.uname().machine and "l4t" not in told["versions"]
    assert told["emulated"] is True  # it was read from a folder


def test_a_jetson_says_what_it_is(tmp_path, commands):
    commands(nvpmodel=NVPMODEL)
    told = board.fingerprint("jetson-orin-nano", tree(tmp_path / "board", ORIN_NANO))
    assert told["soc"] == "nvidia,tegra234" and told["power_mode"] == "MAXN_SUPER (2)"
    assert {k: told["versions"][k] for k in ("l4t", "jetpack", "tensorrt")} == {
        "l4t": "36.4.3", "jetpack": "6.2", "tensorrt": "10.3.0.30"}


def test_what_a_device_does_not_say_is_not_reported(tmp_path, commands):
    commands(nvpmodel="echo 'not for you' >&2; exit 1", vcgencmd="echo \"Can't open device file: /dev/vcio\"; exit 255")
    told = board.fingerprint("x86", tree(tmp_path / "board", {"proc/meminfo": ""}))
    assert {told[key] for key in ("soc", "governor", "power_mode", "desktop", "cooler")} == {"not reported"}
    assert told["clock_hz"] == told["clock_min_hz"] == told["ram_bytes"] == 0
    assert watch.throttle_signs(str(tmp_path / "board")) == {} and watch.temperature(str(tmp_path / "board")) is None


def test_this_machine_is_not_emulated_unless_its_device_tree_says_so(tmp_path):
    told = json.loads(subprocess.check_output([*PROBE, "fingerprint", "--target", "x86"], cwd=HOME))
    virtual = "linux,dummy-virt" in sysfs.read_text("/proc/device-tree/compatible")
    assert told["emulated"] is virtual and told["versions"]["machine"] == os.uname().machine


@pytest.mark.parametrize("text, l4t, jetpack", [
    ("# R36 (release), REVISION: 4.7, GCID: 1", "36.4.7", "6.2.1"),
    ("# R36 (release), REVISION: 5.0,", "36.5.0", "6.2.2"),
    ("# R39 (release), REVISION: 2.0,", "39.2.0", "7.2"),
    ("# R35 (release), REVISION: 4.1,", "35.4.1", "5.1"),
    ("# R36 (release), REVISION: 4.9,", "36.4.9", "not reported"),
    ("# R32(release), REVISION: 6.1", "32.6.1", "not reported")])
def test_jetpack_from_l4t(tmp_path, text, l4t, jetpack):
    root = tree(tmp_path, {"etc/nv_tegra_release": text})
    assert board.jetson_versions(root) == {"l4t": l4t, "jetpack": jetpack}


# ---------------------------------------------------------------------------------------------------------- throttling

@pytest.mark.parametrize("before, now, words", [
    ({}, {}, None),
    ({"get_throttled": 0x50000}, {"get_throttled": 0x50000}, None),  # of before: sticky until the next boot
    ({"get_throttled": 0x50000}, {"get_throttled": 0xD0000}, "soft temperature limit"),
    ({"get_throttled": 0}, {"get_throttled": 0x1}, "under-voltage"),
    ({"get_throttled": 0x4}, {"get_throttled": 0x4}, "throttled"),  # now, so whatever was before
    ({"package_throttle_count": 7}, {"package_throttle_count": 7}, None),
    ({"package_throttle_count": 7}, {"package_throttle_count": 8}, "package"),
    ({"alarms": []}, {"alarms": ["curr1_crit_alarm"]}, "curr1_crit_alarm"),
    ({"allowed_hz": [24, 24]}, {"allowed_hz": [24, 18]}, "lowered"),
    ({"allowed_hz": [18]}, {"allowed_hz": [24]}, None),
    ({"clock_share": 1.0}, {"clock_share": 0.75}, "75% of the highest"),
    ({"clock_share": 1.0}, {"clock_share": 0.99}, None)])
def test_what_convicts_a_round(before, now, words):
    reasons = watch.throttle_reasons(before, now)
    assert (reasons == []) if words is None else (len(reasons) == 1 and words in reasons[0])


def test_signs_are_read_from_where_each_board_has_them(tmp_path, commands):
    commands(vcgencmd="[ $1 = get_throttled ] && echo throttled=0x50005")
    root = tree(tmp_path / "pi", {**PI_5, CPU + "cpufreq/policy0/scaling_governor": "performance",
                                  CPU + "cpufreq/policy0/scaling_cur_freq": "1800000"})
    signs = watch.throttle_signs(root)
    assert signs == {"get_throttled": 0x50005, "allowed_hz": [2400000000], "clock_share": 0.75}
    commands(vcgencmd="exit 1")
    alarm = {**NANO_RAILS, INA.format(40, 1) + "curr1_crit_alarm": "1\n"}
    assert watch.throttle_signs(tree(tmp_path / "jetson", alarm)) == {"alarms": ["curr1_crit_alarm"]}
    counts = {CPU + f"cpu{i}/thermal_throttle/package_throttle_count": f"{i + 3}\n" for i in range(2)}
    assert watch.throttle_signs(tree(tmp_path / "x86", counts)) == {"package_throttle_count": 7}


def test_a_throttled_round_is_marked(tmp_path, commands):
    # The fourth time it is asked it says under-voltage: before the part and the rounds, after round 0, after round 1
    commands(vcgencmd=f"echo >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) = 4 ] && echo throttled=0x1 || "
                      "echo throttled=0x0")
    results, _ = run(tmp_path, [entry(tmp_path, "a")], profile={**TINY, "rounds": 4})
    assert results[0]["throttled"] is True and results[0]["throttled_rounds"] == [1]
    assert results[0]["notes"] == ["throttled: under-voltage (get_throttled 0x1)"]
    assert len(results[0]["latencies_s"]) == 4  # the samples stay


# ---------------------------------------------------------------------------------------------------------- start gate

def test_the_gate_opens_when_the_device_is_idle_and_cool(tmp_path):
    root, seconds = tree(tmp_path, PI_5), []

    def sleep(seconds_):
        """A second of a board that is busy for two and hot for four of them."""
        assert seconds_ == 1
        seconds.append(1)
        n = len(seconds)
        tree(tmp_path, {"proc/stat": STAT.format(busy=100 + 90 * min(n, 2), idle=900 + 100 * n),
                        "sys/class/thermal/thermal_zone0/temp": "70000" if n <= 4 else "55000"})

    gate = watch.wait_until_ready({"temperature_c": 60, "timeout_s": 120}, root, sleep)
    assert gate == {"limit_c": 60, "timeout_s": 120, "waited_s": 7, "temperature_c": 55.0, "busy": 0.0, "reached": True}


def test_the_gate_gives_up_at_its_time_out_and_says_so(tmp_path):
    root = tree(tmp_path, {**PI_5, "sys/class/thermal/thermal_zone0/temp": "61000"})
    gate = watch.wait_until_ready({"temperature_c": 60, "timeout_s": 5}, root, lambda _: None)
    assert gate["reached"] is False and gate["waited_s"] == 5 and gate["temperature_c"] == 61.0
    assert watch.busy_share((100, 1000), (150, 1100)) == 0.5
    assert watch.cpu_times(str(tmp_path / "nothing")) is None and watch.busy_share(None, (1, 1)) is None


# ------------------------------------------------------------------------------------------------- burst and sustained

def test_burst_is_the_first_minute_and_sustained_the_last():
    windows = [power.Window(10.0 * i, 10.0 * i + 9, None) for i in range(13)]  # until 129 s
    rounds = [[0.001 * (i + 1)] * 3 for i in range(13)]
    assert probe.burst_and_sustained(windows, rounds) == pytest.approx((0.0035, 0.0105))  # turns 0 to 5, 7 to 12
    assert probe.burst_and_sustained(windows[:12], rounds[:12]) == (None, None)  # 119 s


# --------------------------------------------------------------------------------------------------------------- power

def test_a_jetsons_rails(tmp_path):
    nano = power.find_ina3221(tree(tmp_path / "nano", NANO_RAILS))
    assert nano.rails == ["VDD_IN"] and nano.watts() == pytest.approx(6.0)  # the input alone, not its parts again
    agx = power.find_ina3221(tree(tmp_path / "agx", AGX_RAILS))
    assert agx.rails == ["VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"] and agx.watts() == pytest.approx(4.968 * 2.5)
    assert agx.settle_s == 0.04
    (tmp_path / "nano" / INA.format(40, 1) / "curr1_input").unlink()
    assert nano.watts() is None  # a reading that failed is none
    assert power.find_ina3221(str(tmp_path / "nothing")) is None


def test_a_pi_5s_rails(commands):
    assert power.pmic_watts(PMIC) == pytest.approx({"DDR_VDDQ": 0.036, "VDD_CORE": 1.7})
    commands(vcgencmd=f"cat <<'END'\n{PMIC}END")
    source = power.find_pmic()
    assert source.rails == ["DDR_VDDQ", "VDD_CORE"] and source.watts() == pytest.approx(1.736)
    commands(vcgencmd="echo 'error=1 error_msg=\"Command not registered\"'")  # a Raspberry Pi 4
    assert power.find_pmic() is None and source.watts() is None


def test_rapl_counts_on_where_its_counter_wraps(tmp_path):
    zone, core = "sys/class/powercap/intel-rapl:0/", "sys/class/powercap/intel-rapl:0:0/"
    root = tree(tmp_path, {zone + "name": "package-0", zone + "energy_uj": "900", zone + "max_energy_range_uj": "1000",
                           core + "name": "core", core + "energy_uj": "5"})
    source = power.find_rapl(root)
    assert source.rails == ["package-0"] and source.joules() == 0
    tree(tmp_path, {zone + "energy_uj": "950"})
    assert source.joules() == pytest.approx(50e-6)
    tree(tmp_path, {zone + "energy_uj": "100"})
    assert source.joules() == pytest.approx(200e-6)
    (tmp_path / zone / "energy_uj").unlink()  # as it is for all but root
    assert power.find_rapl(root) is None and source.joules() is None


def test_power_is_attributed_to_the_turn_that_it_was_read_in():
    meter = power.PowerMeter(power.PowerSource(["VDD_IN"], lambda: None, None, 1, 0.1))
    meter.samples = [(0.5, 1.0), (1.05, 99.0), (1.2, 5.0), (1.4, 7.0), (2.0, 1.0), (3.5, 9.0), (5.0, 1.0)]
    windows = [power.Window(3.0, 4.0, None), power.Window(1.0, 1.5, None)]
    assert meter.mean_w(windows) == (7.0, 3)  # 5, 7 and 9: at 1.05 s the sensor still averages what was before
    assert meter.mean_w([power.Window(6.0, 7.0, None)]) == (None, 0)
    counter = power.PowerMeter(power.PowerSource(["package-0"], None, lambda: 0, 0, 0))
    assert counter.mean_w([power.Window(0.0, 1.0, 10.0), power.Window(5.0, 8.0, 30.0)]) == (10.0, 2)


def test_energy_is_power_times_time_and_idle_taken_off():
    meter = power.PowerMeter(power.PowerSource(["VDD_IN"], lambda: None, None, 1, 0.0))
    meter.idle_w, meter.samples = 4.0, [(0.1 * i, 6.0) for i in range(20)]
    facts, notes = power.energy_per_inference(meter, [power.Window(0.0, 2.0, None)], 0.010)
    assert facts.pop("power_rails") == ["VDD_IN"]
    assert facts == pytest.approx({"energy_j": 0.020, "energy_gross_j": 0.060, "idle_w": 4.0})
    assert "rails, not at the wall" in notes[0]
    facts, notes = power.energy_per_inference(meter, [power.Window(0.0, 0.45, None)], 0.010)
    assert facts["energy_j"] is None and facts["energy_gross_j"] is None and "5 power readings" in notes[0]
    meter.idle_w = 6.0
    facts, notes = power.energy_per_inference(meter, [power.Window(0.0, 2.0, None)], 0.010)
    assert facts["energy_j"] is None and facts["energy_gross_j"] == pytest.approx(0.060) and "6.00 W idle" in notes[0]


def test_a_job_with_everything_on_a_jetsons_tree(tmp_path, commands):
    commands(jetson_clocks="true")
    root = tree(tmp_path / "board", {**ORIN_NANO, INA.format(40, 1) + "update_interval": "100"})
    results, errors = run(tmp_path, [entry(tmp_path, "a")], profile={**TINY, "rounds": 15}, sysroot=root,
                          power="ina3221", gate={"temperature_c": 60, "timeout_s": 4}, pin_clocks=True)
    row = results[0]
    assert errors == [] and row["emulated"] is True and row["pinned_clocks"] is True
    mean_s = sum(s for r in row["latencies_s"] for s in r) / sum(map(len, row["latencies_s"]))
    assert row["energy_gross_j"] == pytest.approx(6.0 * mean_s) and row["power_rails"] == ["VDD_IN"]
    assert row["energy_j"] is None and row["idle_w"] == pytest.approx(6.0)  # the rails of a tree do not move
    assert row["gate"]["reached"] is True and row["gate"]["waited_s"] == 3
    assert row["shared_bytes"] == 0 and row["burst_s"] is None
    assert min(map(len, row["latencies_s"])) > 80  # of 1 ms each: a turn is twice what the sensor averages
    assert len(row["turns_s"]) == 15 and sorted(row["turns_s"]) == row["turns_s"]
    # every field has its place in the record, and comes back from the disk as it was
    made = {k: v for k, v in row.items() if k not in ("kind", "part", "sha256", "emulated")}
    told = board.fingerprint("jetson-orin-nano", root)
    told.pop("emulated")
    made.update(artifact_sha256=row["sha256"], device=told, batch=1, profile="quick", session="s.1",
                provenance="fixture", commit="0.1.0")
    record = from_json(Measurement, made)
    assert record.gate.reached and record.device.soc == "nvidia,tegra234" and isinstance(record.turns_s, tuple)
    assert from_json(Measurement, json.loads(json.dumps(dataclasses.asdict(record)))) == record


def test_without_these_keys_nothing_is_waited_for_and_no_power_read(tmp_path):
    row = run(tmp_path, [entry(tmp_path, "a")])[0][0]
    assert (row["gate"], row["energy_j"], row["power_rails"], row["pinned_clocks"]) == (None, None, [], False)
    assert row["shared_bytes"] is None


def test_an_absent_power_source_is_a_note_and_an_unknown_one_an_error(tmp_path):
    root = tree(tmp_path / "board", PI_5)
    row = run(tmp_path, [entry(tmp_path, "a")], sysroot=root, power="ina3221")[0][0]
    assert row["energy_j"] is None and row["notes"] == ["no energy: the source ina3221 cannot be read here"]
    assert row["clock_hz"] == [2400000000, 2400000000] and row["temperature_c"] == [48.35, 48.35]
    job = json.dumps({"schema": 1, "profile": TINY, "entries": [], "power": "plug"})
    done = subprocess.run([*PROBE, "run", "-"], input=job, capture_output=True, text=True, check=False, cwd=HOME)
    assert done.returncode == 1 and "no power source called 'plug'" in done.stderr


# ------------------------------------------------------------------------------------------------------- pinned clocks

def governors(root):
    return {p.parent.name: p.read_text().strip() for p in Path(root).glob(CPU + "cpufreq/policy*/scaling_governor")}


@contextlib.contextmanager
def pinned_run(tmp_path, root):
    """A long run with pinned clocks, once they are pinned."""
    job = {"schema": 1, "root": str(tmp_path), "profile": {**TINY, "samples": None, "seconds": 300, "rounds": 9999},
           "entries": [entry(tmp_path, "a")], "pin_clocks": True, "sysroot": root}
    (tmp_path / "job.json").write_text(json.dumps(job))
    code = ("import signal, runpy, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # not as nohup leaves them
            "signal.signal(signal.SIGINT, signal.default_int_handler); "
            "runpy.run_module('on_device.probe', run_name='__main__', alter_sys=True)")
    with subprocess.Popen([sys.executable, "-c", code, "run", str(tmp_path / "job.json")], cwd=HOME,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            process.stdout.readline()  # the memory pass is over: pinning came before
            yield process
        finally:
            process.kill()


def test_clocks_are_put_back_by_the_next_start_after_kill_9(tmp_path, commands):
    commands(jetson_clocks=f'echo "$@" >> {tmp_path}/asked; [ "$1" != --store ] || echo old > "$2"')
    root = tree(tmp_path / "board", {**ORIN_NANO, CPU + "cpufreq/policy4/scaling_governor": "ondemand"})
    before = governors(root)
    with pinned_run(tmp_path, root) as process:
        assert set(governors(root).values()) == {"performance"}
        _, errors = run(tmp_path, [entry(tmp_path, "b")], sysroot=root)
        assert "has pinned the clocks" in errors[0]["message"]  # the run that did it is alive
        process.kill()
        process.wait()
    assert set(governors(root).values()) == {"performance"} and (tmp_path / clocks.CLOCKS).exists()
    results, errors = run(tmp_path, [entry(tmp_path, "b")], sysroot=root)
    assert errors == [] and len(results) == 1 and governors(root) == before
    assert not (tmp_path / clocks.CLOCKS).exists() and not (tmp_path / clocks.JETSON_CLOCKS).exists()
    stored = tmp_path / clocks.JETSON_CLOCKS
    assert (tmp_path / "asked").read_text().splitlines() == [f"--store {stored}", "", f"--restore {stored}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_clocks_are_put_back_after_a_signal(tmp_path, number):
    root = tree(tmp_path / "board", PI_5)
    with pinned_run(tmp_path, root) as process:
        assert governors(root) == {"policy0": "performance"}
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert governors(root) == {"policy0": "ondemand"} and not (tmp_path / clocks.CLOCKS).exists()


def test_clocks_are_put_back_when_nobody_reads_any_more(tmp_path):
    root = tree(tmp_path / "board", PI_5)
    with pinned_run(tmp_path, root) as process:
        process.stdout.close()  # a dropped connection: the next progress line breaks the pipe
        assert process.wait(20) == 1
        assert process.stderr.read() == b""
    assert governors(root) == {"policy0": "ondemand"}


def test_clocks_that_cannot_be_pinned_are_an_error_and_stay(tmp_path, commands):
    results, errors = run(tmp_path, [entry(tmp_path, "a")], pin_clocks=True, sysroot=str(tmp_path / "nothing"))
    assert results == [] and "has no governors" in errors[0]["message"] and errors[0]["artifact"] is None
    commands(jetson_clocks='[ "$1" != "" ] || { echo "no such clock"; exit 3; }')
    root = tree(tmp_path / "board", ORIN_NANO)
    results, errors = run(tmp_path, [entry(tmp_path, "a")], pin_clocks=True, sysroot=root)
    assert results == [] and errors[0]["message"] == "jetson_clocks failed (3): no such clock"
    assert governors(root) == {"policy0": "schedutil", "policy4": "schedutil"}


def test_pinning_without_root_is_an_error_that_says_so():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who is not")
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        root = tree(Path(parent), PI_5)
        os.seteuid(65534)
        try:
            with pytest.raises(clocks.ClockError, match="needs root"), clocks.pinned_clocks(parent, root):
                pass
        finally:
            os.seteuid(0)
        assert governors(root) == {"policy0": "ondemand"} and not (Path(parent) / clocks.CLOCKS).exists()


def test_a_stale_file_can_name_nothing_but_this_devices_governors(tmp_path):
    root = tree(tmp_path / "board", PI_5)
    stale = {"../../../../../../victim": "x", "policy0": "powersave"}
    tree(tmp_path, {"victim": "safe", clocks.CLOCKS: json.dumps(stale)})
    clocks.restore_stale_clocks(str(tmp_path), root)
    assert (tmp_path / "victim").read_text() == "safe" and governors(root) == {"policy0": "powersave"}
    tree(tmp_path, {clocks.CLOCKS: "[1]"})
    with pytest.raises(clocks.ClockError, match="reboot"):
        clocks.restore_stale_clocks(str(tmp_path), root)


@pytest.fixture
def hogged_core():
    """A core that another program keeps busy."""
    core = max(os.sched_getaffinity(0))
    hog = subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    yield core
    hog.kill()
    hog.wait()


@pytest.mark.parametrize("alone", ["both", pytest.param("the reference", marks=pytest.mark.slow)])
def test_beside_a_busy_loop_a_file_is_neither_faster_nor_slower_than_itself(tmp_path, hogged_core, alone):
    """The loop takes the core from both, or from the reference alone, which then has twice the latency."""
    free = min(os.sched_getaffinity(0))
    if alone == "the reference" and free == hogged_core:
        pytest.skip("needs two cores")
    entries = [entry(tmp_path, "dense", f"{hogged_core} dense", "spin", reference=True),
               entry(tmp_path, "same", f"{hogged_core if alone == 'both' else free} same", "spin")]
    results, errors = run(tmp_path, entries, ODD_PROBE,
                          {"samples": 24, "seconds": 5, "rounds": 6, "restarts": 1})
    assert errors == []
    dense, same = (measurement_from_probe(row, SessionInfo(DEVICE, False, "smoke", "s", "")) for row in results)
    assert len(dense.preemptions) == len(dense.latencies_s) and sum(dense.preemptions) > 0
    assert compare(same, dense).verdict in ("too busy to tell", "no difference")
    if dense.waited_s:  # the kernel tells, and it sees the loop
        assert sum(disturbed_rounds(dense)) >= 5 and compare(same, dense).verdict == "too busy to tell"


def test_a_kernel_that_does_not_tell_of_waits_is_no_error(tmp_path):
    shutil.copytree(HOME / "on_device", tmp_path / "on_device")
    for name, said in (("worker.py", "/proc/self/task/*/schedstat"), ("watch.py", '"/proc/stat"')):
        path = tmp_path / "on_device" / name
        assert said in path.read_text()
        path.write_text(path.read_text().replace(said, said.replace("stat", "none")))
    results, _ = run(tmp_path, [entry(tmp_path, "dense")], home=tmp_path)
    assert [results[0][name] for name in ("waited_s", "waits", "stolen_s")] == [[], [], []]
    assert len(results[0]["preemptions"]) == len(results[0]["latencies_s"])


@pytest.mark.parametrize("lines, seconds", [
    ("cpu  1 2 3 4 5 6 7 250 0 0\ncpu0 1 2 3 4 5 6 7 1 0 0\n", 2.5), ("cpu  1 2 3 4 5 6 7\n", None), ("", None),
])
def test_what_the_hypervisor_took_is_read_from_the_first_line(tmp_path, lines, seconds):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text(lines)
    assert watch.stolen_s(str(tmp_path)) == (seconds and seconds * 100 / os.sysconf("SC_CLK_TCK"))
