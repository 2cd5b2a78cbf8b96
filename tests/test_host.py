"""Boards over ssh, with an ssh that reaches no further than this machine: what is copied, cleaned, refused and said."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import mmprune
from fake_nvpmodel import power_modes
from fake_ssh import FakeBoard
from families import two_unmeasured
from linear_models import real_family

import targets.jobs
from mmprune import folder
from targets import fleet, load
from targets.bundle import Options as BundleOptions
from targets.bundle import make_bundle
from targets.golden import Golden, answer
from targets.host import REMOTE, Host, HostError, connected, output
from targets.importing import import_results
from targets.jobs import Profile
from targets.measure import MeasureError, Options, measure
from targets.on_device import clocks, remote, session
from targets.run_folder import programs
from targets.unpacking import UnpackError, unpack

TINY = Profile("smoke", samples=8, seconds=10, rounds=2, restarts=1)
CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key for pi has changed and you have requested strict checking.
Host key verification failed."""


@pytest.fixture
def board(tmp_path, monkeypatch):
    made = FakeBoard(tmp_path / "board")
    monkeypatch.setenv("PATH", f"{made.folder / 'here'}:{os.environ['PATH']}")
    monkeypatch.setitem(targets.jobs.GATE, "timeout_s", 0.1)  # other tests keep this machine busy
    return made


@pytest.fixture
def family(tmp_path):
    """(folder, artifacts): two variants, without measurements."""
    return tmp_path / "family", two_unmeasured(tmp_path / "family")


def over_ssh(family, target="x86", host="pi@pi5.local", **told):
    return measure(*family, target, TINY, Options(runtimes=("null",), host=host, **{"gate": False, **told}))


@pytest.mark.parametrize("name", ["", "-oProxyCommand=touch", "pi@-oProxyCommand=touch", "pi 5", "pi\n5", "pi;reboot",
                                  "pi\0", "$(reboot)", "pi'5", "pi`5`", "pi|5"])
def test_what_is_no_host(name):
    with pytest.raises(ValueError, match="is not a valid host: use user@name"):
        Host(name)


@pytest.mark.parametrize("name", ["pi", "pi@pi5.local", "pi@[fe80::1%eth0]", "ssh://pi@10.0.0.5:2222", "my_board-2"])
def test_what_is_a_host(name):
    assert Host(name).name == name


def test_a_board_is_measured_and_nothing_stays_there(board, family):
    steps, notes = [], []
    made = over_ssh(family, progress=lambda *step: steps.append(step), note=notes.append)
    assert folder.read_measurements(family[0]) == made and len(made) == 2
    assert made[0].device.target == "x86" and {m.provenance for m in made} == {"fixture"}  # the null runtime's
    assert steps[0][:2] == ("copy", "pi@pi5.local") and steps[-1] == ("measure", "part 1", 100, 100)
    assert set(board.hosts) == {"pi@pi5.local"}
    assert board.left == [] and notes == []


def test_here_over_ssh_and_from_a_bundle_a_record_is_the_same_but_for_the_times(board, family, tmp_path):
    root, artifacts = family
    options = Options(runtimes=("null",), gate=False)
    ways = [measure(root, artifacts, "local", TINY, options), over_ssh(family, "local", again=True)]
    bundle = make_bundle(root, artifacts, load("local"), tmp_path / "b.tar.xz", TINY,
                         BundleOptions(runtimes=("null",), gate=False))
    there = unpack(bundle.path, tmp_path)
    subprocess.run([sys.executable, "run"], cwd=there, check=True, capture_output=True)
    ways.append(list(import_results(root, there / "results.jsonl").measurements))

    def told(m):
        """What is no time is compared as it is, but for the versions: this machine has mmrt, the board has not."""
        said = dataclasses.asdict(m)
        said["device"]["versions"] = {}
        assert session.NAME.fullmatch(said.pop("session").removesuffix(".1"))
        kept = ("threads", "batch", "processes", "schema", "provenance", "profile", "runtime", "device", "settings",
                "notes", "commit", "artifact", "artifact_sha256")
        return {name: value if name in kept or value is None else type(value) for name, value in said.items()}

    for one, two, three in zip(*ways, strict=True):
        assert told(one) == told(two) == told(three)


def test_the_folder_is_kept_where_that_is_asked_and_holds_each_file_once(board, family):
    notes = []
    over_ssh(family, keep=True, note=notes.append)
    kept, = board.left
    assert notes == [f"kept on pi@pi5.local: {kept}"]
    files = sorted(str(p.relative_to(kept)) for p in kept.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert files == sorted([*programs(), *(name for a in family[1] for name in a.files)])


@pytest.mark.parametrize(("said", "message"), [
    (CHANGED, "cannot reach pi: its host key has changed.*ssh-keygen -R"),
    ("No ED25519 host key is known for pi and you have requested strict checking.\nHost key verification failed.",
     "its host key is not known on this machine: connect once by hand, ssh pi"),
    ("pi@pi: Permission denied (publickey,password).", "requires a password.*ssh-copy-id pi"),
    ("ssh: Could not resolve hostname pi: Name or service not known", "no machine with this name is known"),
    ("ssh: connect to host pi port 22: Connection refused", "no ssh server answers"),
    ("ssh: connect to host pi port 22: Connection timed out", "check that it is switched on"),
    ("ssh: connect to host pi port 22: No route to host", "check that it is switched on"),
    ("kex_exchange_identification: read: Connection reset by peer", "cannot work on pi: ssh failed with exit status"),
])
def test_why_no_connection_comes_to_stand(board, family, said, message):
    board.says(said)
    with pytest.raises(HostError, match=f"(?s){message}") as caught:
        over_ssh(family, host="pi")
    assert said.splitlines()[-1] in str(caught.value)


def test_no_python3(board, family):
    (board.folder / "bin" / "python3").unlink()
    with pytest.raises(HostError, match=r"pi has no python3, .*not found.*apt-get install python3"):
        over_ssh(family, host="pi")


def test_an_old_python3(board, family):
    board.python(f"echo '{json.dumps({'folder': '/tmp/mmprune-a', 'python': [3, 6]})}'; exit 0")
    with pytest.raises(HostError, match=r"pi has Python 3.6, but 3.8 or newer is needed"):
        over_ssh(family, host="pi")


@pytest.mark.parametrize(("said", "message"), [
    ("Welcome to pi!", "sent 'Welcome to pi!.*' instead of a response"),
    ('{"folder": "/etc", "python": [3, 11]}', "reported an unexpected folder '/etc'"),
    ('{"folder": "/tmp/../mmprune-a", "python": [3, 11]}', "reported an unexpected folder"),
    ('{"folder": "/tmp/mmprune-a"}', "did not report its Python version"),
    ("[]", "instead of a response"),
])
def test_odd_greetings(board, family, said, message):
    board.python(f"echo '{said}'; exit 0")
    with pytest.raises(HostError, match=message):
        over_ssh(family, host="pi")


def test_no_space(board, family):
    said = r"on pi: no space: 1\d+ MiB are needed, but /\S+ has only \d+ MiB free, .*free some"
    with pytest.raises(HostError, match=said), connected(Host("pi"), 2**60, False, lambda text: None):
        pass
    assert board.left == []


def test_the_disk_fills_while_files_are_copied(board, family):
    board.python("ulimit -f 8")  # in blocks of 512 bytes or 1 KiB: less than some of the programs
    with pytest.raises(HostError, match=r"on pi: .*File too large"):
        over_ssh(family, host="pi")
    assert board.left == []


def test_another_architecture_and_another_board(board, family, tmp_path):
    with pytest.raises(MeasureError, match=r"pi is not a raspberry-pi-5: its processor is x86_64, .* has aarch64"):
        over_ssh(family, "raspberry-pi-5", host="pi")
    (tmp_path / "mine.toml").write_text('like = "x86"\nboard = "Box 7"')
    with pytest.raises(MeasureError, match=r"pi is not a mine: its name is '.*', which is not a Box 7"):
        over_ssh(family, str(tmp_path / "mine.toml"), host="pi")
    assert board.left == []


def test_a_runtime_that_is_missing_there(board, family):
    board.python(options="-S")  # without site-packages
    install = "python3 -m pip install onnxruntime there"
    with pytest.raises(MeasureError, match=f"onnxruntime is not installed on pi: {install}"):
        measure(*family, "x86", TINY, Options(host="pi", runtimes=("onnxruntime",)))
    with pytest.raises(MeasureError, match=f"runtimes on pi are none; onnxruntime: {install}"):
        measure(*family, "x86", TINY, Options(host="pi"))
    assert board.left == []


def test_a_probe_that_is_killed(board, family):
    board.python('case "$*" in "-m on_device.measure -") kill -9 $$;; esac')
    with pytest.raises(HostError, match=r"on pi: on_device\.measure was killed, usually because memory ran out"):
        over_ssh(family, host="pi")
    assert board.left == []


def test_a_program_that_is_killed_while_it_measures(board, family):
    def kill(stage, item, done, total):
        for pid in remote.processes_in(str(board.folder / "tmp")) if stage == "measure" else ():
            if b"on_device.probe\0run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(HostError, match=r"on pi: on_device\.measure was killed, usually because memory ran out"):
        over_ssh(family, host="pi", progress=kill)
    assert board.left == [] and remote.processes_in(str(board.folder / "tmp")) == []


def test_after_a_dropped_connection_the_same_command_goes_on(board, family):
    board.cut_after_the_first_result()
    with pytest.raises(HostError, match=r"the connection to pi dropped \(client_loop: send disconnect: Broken pipe\)"):
        over_ssh(family, host="pi")
    kept = folder.read_measurements(family[0])
    assert len(kept) == 1 and board.left == []
    board.cut_after_the_first_result(False)
    made = over_ssh(family, host="pi")
    assert {m.artifact for m in made} == {a.id for a in family[1]} and made[0] == kept[0]
    assert folder.read_measurements(family[0]) == made
    name = kept[0].session.removesuffix(".1")
    assert [m.session for m in made[1:]] == [f"{name}.2"] * (len(made) - 1)  # the reference again, and what is missing
    assert over_ssh(family, host="pi") == made


def test_an_interrupt_ends_what_runs_there_and_removes_the_folder(board, family):
    def interrupt(stage, item, done, total):
        if stage == "measure":
            assert remote.processes_in(str(board.folder / "tmp")) != []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over_ssh(family, host="pi", progress=interrupt)
    assert board.left == [] and remote.processes_in(str(board.folder / "tmp")) == []


def test_a_lost_connection_ends_commands_and_the_board_cleans(board):
    with pytest.raises(HostError, match="the connection to pi dropped"), \
            connected(Host("pi"), 1, False, lambda text: None) as there, \
            output(there.place, ("/bin/sleep", "60"), None) as f:
        there.hang_up()
        f.read()
    assert board.left == []


def test_the_boards_end_cleans_when_stdin_ends(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", REMOTE.read_text(), "1", "remove"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)})
    place = Path(json.loads(done.stdout.readline())["folder"])
    assert place.parent == tmp_path
    sleeper = subprocess.Popen(["sleep", "60"], cwd=place)
    text, _ = done.communicate(b'{"name": "a/b", "bytes": 3}\nab')  # cut short
    assert json.loads(text) == {"left": ""} and not place.exists()
    assert sleeper.wait(5) == -15


def test_the_boards_end_parses_on_old_pythons_and_needs_the_standard_library_alone():
    tree = ast.parse(REMOTE.read_text(), feature_version=(3, 6))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_pinned_clocks_are_put_back_before_the_folder_goes(tmp_path):
    code = "import os\ndef restore_stale_clocks(folder):\n    os.remove('mmprune-clocks.json')\n"
    (tmp_path / "on_device").mkdir()
    (tmp_path / "on_device" / "clocks.py").write_text(code)
    (tmp_path / "mmprune-clocks.json").write_text("{}")
    assert remote.clean(str(tmp_path)) == "" and not tmp_path.exists()
    assert remote.CLOCKS == clocks.CLOCKS  # it travels as text, alone


def test_clocks_that_cannot_be_put_back_are_told(tmp_path):
    (tmp_path / "mmprune-clocks.json").write_text("{}")
    assert remote.clean(str(tmp_path)) == f"{tmp_path}: the clocks are still pinned; reboot to restore them"
    assert tmp_path.exists()


def test_remote_words_are_quoted(board, tmp_path):
    odd = tmp_path / "it's; touch hacked"
    words = ("$(touch x)", "a 'b'", str(odd))
    with connected(Host("pi"), 1, False, lambda text: None) as there, \
            output(there.place, ("python3", "-c", "import sys; print(sys.argv[1:])", *words), None) as f:
        assert f.read().decode().strip() == repr(list(words))


def test_names_that_lead_out_of_the_folder_are_not_sent(board, tmp_path):
    (tmp_path / "file").write_text("x")
    with connected(Host("pi"), 1, False, lambda text: None) as there:
        for name in ("../file", "/etc/passwd", "a/../../b"):
            with pytest.raises(UnpackError, match="leads out"):
                there.send({name: tmp_path / "file"})


def test_orders_to_the_terminal_are_taken_out(board, family):
    board.says("\x1b]0;owned\x07ssh: Could not resolve hostname pi\x1b[2J")
    with pytest.raises(HostError) as caught:
        over_ssh(family, host="pi")
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)


def test_ssh_is_missing(family, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="ssh is not installed on this machine: apt-get install openssh-client"):
        over_ssh(family, host="pi")


FLEET = '[[board]]\nhost = "pi@one"\ntarget = "x86"\n[[board]]\nhost = "pi@two"\ntarget = "local"\n'


def test_a_fleet_is_read(tmp_path):
    (tmp_path / "fleet.toml").write_text(FLEET)
    assert fleet.read_fleet(tmp_path / "fleet.toml") == [fleet.Job("pi@one", "x86"), fleet.Job("pi@two", "local")]


@pytest.mark.parametrize(("text", "message"), [
    ("", "only \\[\\[board\\]\\] tables are allowed"),
    ("[[boards]]\n", "only \\[\\[board\\]\\] tables are allowed"),
    ("board = 3\n", "only \\[\\[board\\]\\] tables are allowed"),
    ('[[board]]\nhost = "pi"\n', "board 1: it must have the keys host and target"),
    (FLEET + 'user = "pi"\n', "board 2: it must have the keys host and target, and no others"),
    ('[[board]]\nhost = 3\ntarget = "x86"\n', "board 1: host and target must be text"),
    ('[[board]]\nhost = "-oProxyCommand=x"\ntarget = "x86"\n', "board 1: '-oProxyCommand=x' is not a valid host"),
    ('[[board]]\nhost = "pi"\ntarget = "raspberry-pi5"\n', "did you mean 'raspberry-pi-5'"),
    (FLEET + FLEET, "board 3: pi@one appears twice with the target x86"),
    ("[[board", "fleet .*: "),
])
def test_fleets_that_are_none(tmp_path, text, message):
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        fleet.read_fleet(tmp_path / "fleet.toml")


def test_a_fleet_measures_side_by_side_and_one_failure_stops_no_other(board, family):
    jobs = [fleet.Job("one", "raspberry-pi-5"), fleet.Job("one", "x86"), fleet.Job("two", "local")]
    steps = {"one": [], "two": []}
    options = Options(runtimes=("null",), again=True, gate=False)
    made = fleet.measure_fleet(*family, jobs, TINY, options, lambda host: lambda *step: steps[host].append(step))
    assert [outcome.job for outcome in made] == jobs
    assert "one is not a raspberry-pi-5" in made[0].error and not made[0].measurements
    assert [len(outcome.measurements) for outcome in made] == [0, 2, 2]
    assert len(folder.read_measurements(family[0])) == 4
    assert all(told[-1] == ("measure", "part 1", 100, 100) for told in steps.values())
    assert board.left == []


def test_several_hosts_from_the_command_line(board, family, tmp_path):
    root, _ = family
    words = ("bench", root, "--runtime", "null", "--profile", "smoke", "--quiet")
    hosts = ("--target", "x86", "--host", "one", "--host", "two")
    done = mmprune(*words, *hosts)
    assert "the 4 measurements in" in done.stderr and "are fixture" in done.stderr  # of the runtime that only sleeps
    assert "one (x86): 2 measurements" in done.stderr and "two (x86): 2 measurements" in done.stderr
    (tmp_path / "fleet.toml").write_text(FLEET.replace("pi@two", "pi@three").replace("local", "raspberry-pi-5"))
    done = mmprune(*words, "--fleet", tmp_path / "fleet.toml")
    assert (done.code, "1 of 2 boards could not be measured: pi@three;" in done.stderr) == (1, True), done.stderr
    assert "pi@one (x86): 2 measurements" in done.stderr and "pi@three is not a raspberry-pi-5" in done.stderr
    assert mmprune("bench", root).code == mmprune(*words, *hosts, "--fleet", tmp_path / "fleet.toml").code == 2


def test_what_was_cut_short_goes_on_and_to_measure_again_is_all_anew(board, family):
    root, artifacts = family
    first = over_ssh((root, artifacts))
    lines = (root / folder.MEASUREMENTS).read_text().splitlines(keepends=True)
    (root / folder.MEASUREMENTS).write_text(lines[0])
    second = over_ssh((root, artifacts))
    assert {m.session.partition(".")[0] for m in second} == {first[0].session.partition(".")[0]}
    assert second[0] == first[0]
    assert over_ssh((root, artifacts)) == second  # a whole session is not measured anew
    (root / folder.MEASUREMENTS).write_text(lines[0])
    third = over_ssh((root, artifacts), again=True)
    assert len(third) == 2 and first[0].session.partition(".")[0] not in {m.session.partition(".")[0] for m in third}


def test_a_board_is_waited_for_until_it_is_idle_and_cool(board, family, monkeypatch):
    monkeypatch.setattr(targets.jobs, "GATE", {"temperature_c": 1000, "timeout_s": 0.1})
    assert all(m.gate and m.gate.limit_c == 1000 for m in over_ssh(family, gate=True))
    assert all(m.gate is None for m in over_ssh(family, again=True))


def test_an_interrupt_of_a_fleet_ends_all(board, family):
    def interrupt(*_):
        raise KeyboardInterrupt

    jobs = [fleet.Job("one", "x86"), fleet.Job("two", "x86")]
    long = dataclasses.replace(TINY, samples=10**6, seconds=60)
    with pytest.raises(KeyboardInterrupt):
        fleet.measure_fleet(*family, jobs, long, Options(runtimes=("null",), gate=False),
                            lambda host: interrupt if host == "one" else lambda *step: None)


def test_every_power_mode_of_a_jetson_is_a_device_and_a_session_of_its_own(board, family, tmp_path):
    """On this machine as a Jetson, with an nvpmodel; for the runtime that only sleeps, which no mode changes."""
    _, state = power_modes(board.folder / "bin")
    described = tmp_path / "like-a-jetson.toml"
    described.write_text('like = "x86"\nruntimes = {tensorrt = "onnx"}\n')
    notes, steps, asked = [], [], []

    def expected(artifacts):
        asked.append(artifacts)
        return Golden(np.zeros((1, 3, 8, 8), np.float32), {a.id: np.zeros((1, 2), np.float32) for a in artifacts})

    with pytest.raises(MeasureError, match=r"power mode MAXN_SUPER: on pi@pi5\.local: on_device\.jetson fingerprint"):
        over_ssh(family, str(described), power_modes=True, note=notes.append, golden=expected,
                 progress=lambda *step: steps.append(step))
    assert sum(step[0] == "copy" for step in steps) == len(asked[0]) == 2 and len(asked) == 1  # once for all modes
    made = folder.read_measurements(family[0])
    assert {(m.device.power_mode, m.artifact) for m in made} == {
        (mode, a.id) for mode in ("15W (0)", "25W (1)") for a in family[1]}
    assert len({m.device.fingerprint for m in made}) == len({m.session.partition(".")[0] for m in made}) == 2
    assert notes == ["power mode 15W", "power mode 25W"] and state.read_text() == "1" and board.left == []
    with pytest.raises(MeasureError, match="--power-modes is for Jetsons; x86 has no power modes"):
        over_ssh(family, power_modes=True)


def test_a_board_s_answers_are_compared_with_those_here(board, tmp_path):
    """Real files on real runtimes; one of the expected answers is another model's."""
    root = tmp_path / "real"
    artifacts, open_artifact = real_family(root)
    images = np.random.default_rng(9).standard_normal((4, 3, 8, 8), dtype=np.float32)
    told = answer(images, artifacts, open_artifact)
    other = artifacts[-1]
    told.outputs[other.id] = -told.outputs[other.id]
    notes = []
    options = Options(host="pi@pi5.local", gate=False, golden=lambda asked: told, note=notes.append)
    made = measure(root, artifacts, "x86", TINY, options)
    assert len(made) == len(artifacts)
    assert f"largest difference 2 of the largest logit ({other.id} on " in "\n".join(notes)
    assert [n for n in notes if "predicts another class for 100% of 4 images" in n and other.id in n]
    assert sum("predicts another class" in n for n in notes) == 1
    assert sum("compared with this machine's" in n for n in notes) == 1
