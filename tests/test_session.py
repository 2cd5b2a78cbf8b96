"""What is done of a session and what is missing, on a board and at home alike."""

from targets.on_device import session

DENSE, SPARSE, OTHER = (
    {"artifact": name, "sha256": "5", "runtime": runtime, "threads": 1, "reference": name == "dense"}
    for name, runtime in (("dense", "mmrt"), ("sparse", "mmrt"), ("dense", "onnxruntime")))
ENTRIES = [DENSE, SPARSE, OTHER]


def test_what_is_missing_comes_with_its_runtime_s_reference():
    def left(*done):
        return session.open_entries(ENTRIES, set(map(session.entry_key, done)))

    assert left() == ENTRIES and left(*ENTRIES) == []
    assert left(DENSE, OTHER) == [DENSE, SPARSE] and left(DENSE, SPARSE) == [OTHER]
    assert left(dict(SPARSE, sha256="6")) == ENTRIES  # it was exported again


def header(name, **more):
    return {"kind": "session", "session": name, "bundle": "b", "profile": {}, "device": {"board": "x"},
            "pin_clocks": False, "power_mode": None, **more}


def test_the_newest_session_on_the_same_terms_goes_on():
    def row(name):
        return {"kind": "result", "artifact": name}

    old, hot, new = header("1"), header("2", power_mode=0), header("3")
    rows = [old, row("a"), hot, row("b"), new, row("c"), hot, row("d")]
    assert session.session_so_far(rows, header("4")) == [new, row("c")]
    assert session.session_so_far(rows, header("4", power_mode=0)) == [hot, row("b"), hot, row("d")]
    assert session.session_so_far(rows, header("4", pin_clocks=True)) == []


def test_names_are_of_the_time_and_of_chance():
    names = {session.new_name() for _ in range(9)}
    assert len(names) == 9 and all(map(session.NAME.fullmatch, names))
