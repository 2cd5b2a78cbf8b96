"""The doctor says what it knows at once, and the rest as it comes."""

import threading

from mmprune.cli import doctor


def test_lines_come_before_the_slow_ones_are_known_and_children_run_side_by_side(monkeypatch):
    """A package is held back until another was looked at: one after the other would wait for ever."""
    other = threading.Event()
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(doctor, "PACKAGES", {"slow": ("slow", "", True), "quick": ("quick", "", True)})
    monkeypatch.setattr(doctor, "_cuda", lambda: doctor.Finding(True, False, "cuda", ""))
    monkeypatch.setattr(doctor, "_mmrt", lambda: doctor.Finding(True, False, "mmrt", ""))

    def look(module, _distribution, _use, needed):
        if module == "slow":
            assert other.wait(20)
        return doctor.Finding(True, needed, module, "")

    monkeypatch.setattr(doctor, "_package", look)
    names = []
    for finding in doctor.examine():
        names.append(finding.name)
        if finding.name == "quick":
            other.set()
    assert names[:2] == ["cpu", "disk"] and names[2:6] == list(doctor.PROGRAMS)
    assert names.index("quick") < names.index("slow")
    assert sorted(names[6:]) == ["cuda", "mmrt", "quick", "slow"]


def test_a_package_that_is_not_there_or_does_not_import_is_a_finding():
    assert not doctor._package("nowhere", "nowhere-at-all", "nothing", True).ok
    broken = doctor._package("no_such_module", "pytest", "tests", False)
    assert not broken.ok and " fails: ModuleNotFoundError" in broken.what
