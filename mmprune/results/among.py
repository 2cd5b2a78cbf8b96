"""What a choice is among: the points of one family or of several, measured on one device or on several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmprune import folder
from mmprune.choices import nearest, pick
from mmprune.records import Device, Manifest
from mmprune.results.choose import Budget, Choice, choose
from mmprune.results.devices import device_differences, place
from mmprune.results.headline import TOLERANCE, find_headline, headline_words
from mmprune.results.points import Point, dense_accuracy, newest_sessions, one_session, read_points, session_name

ALL = "all"


@dataclass(frozen=True)
class Devices:
    """Which of the measured devices are meant; neither names the one that was measured last."""

    names: tuple[str, ...] = ()  # each devices.place or a part of it, the start of a fingerprint, or ALL
    targets: tuple[str, ...] = ()


LAST = Devices()


@dataclass(frozen=True)
class Measured:
    """The newest session of a device in a family's folder."""

    root: Path
    session: str
    device: Device


def sessions_on(root: Path, devices: Devices = LAST) -> list[Measured]:
    """The newest session of each device that is meant, the one that was written last at the end.

    PointsError if nothing was measured or the last session mixes devices, ValueError for a device or target that was
    not measured.
    """
    one_session(root)
    firsts = [session[0] for session in reversed(newest_sessions(root)) if session[0].provenance == "measured"]
    found = {place(m.device): Measured(root, session_name(m), m.device) for m in firsts}
    if not devices.names and not devices.targets:
        return list(found.values())[-1:]
    known = list(dict.fromkeys(row.device.target for row in found.values()))
    for target in devices.targets:
        pick("measured target", target, known, owner=str(root))
    meant = {label for name in devices.names for label in _named(name, found, root)} if devices.names else set(found)
    rows = [row for label, row in found.items() if label in meant and row.device.target in (devices.targets or known)]
    if not rows:
        raise ValueError(f"{root} has no measured device of target {' or '.join(devices.targets)} that is called "
                         f"{' or '.join(devices.names)}{nearest('', list(found))}")
    return rows


def _named(name: str, found: dict[str, Measured], root: Path) -> list[str]:
    if name in found:
        return [name]  # although it may be a part of other names, such as of the same board's in a power mode
    labels = [label for label, row in found.items() if name == ALL or name.casefold() in label.casefold()
              or (len(name) > 3 and row.device.fingerprint.startswith(name))]
    if not labels:
        raise ValueError(f"{root} has no measured device called {name!r}{nearest(name, list(found), 'all')}")
    return labels


@dataclass(frozen=True)
class Among:
    """The sessions and points that a choice is among."""

    sessions: tuple[Measured, ...]
    points: tuple[Point, ...]
    test_images: int
    dense_accuracy: float  # of the best dense model of all families
    notes: tuple[str, ...]  # on what the comparison of several families is worth


def gather(roots: Sequence[Path], devices: Devices = LAST) -> Among:
    """What was measured of the families on the devices that are meant.

    ValueError where families cannot be compared: other test images, or no device in common.
    """
    manifests = {root: folder.read_manifest(root) for root in dict.fromkeys(roots)}
    sessions = tuple(row for root in manifests for row in sessions_on(root, devices))
    notes = tuple(_comparable(manifests, sessions)) if len(manifests) > 1 else ()
    points = tuple(p for row in sessions for p in read_points(row.root, row.session))
    return Among(sessions, points, min(m.images.test for m in manifests.values()), max(map(dense_accuracy, manifests)),
                 notes)


def choose_among(among: Among, budget: Budget) -> tuple[Choice, tuple[str, ...]]:
    """The choice, and notes on it. A budget without a limit is: at most TOLERANCE below dense."""
    notes = among.notes
    if not budget.limited:
        budget = replace(budget, max_drop=TOLERANCE)
        notes = (f"no limit is given: as with --max-drop {100 * TOLERANCE:g}", *notes)
    return choose(among.points, budget, among.test_images, among.dense_accuracy), notes


def _comparable(manifests: dict[Path, Manifest], sessions: Sequence[Measured]) -> list[str]:
    """Notes on what the comparison of several families is worth. ValueError if it is worth nothing."""
    first, *others = manifests
    for root in others:
        mine, other = (manifests[r].source.data for r in (first, root))
        if (mine and mine.sha256) != (other and other.sha256) or (
                manifests[first].images.test != manifests[root].images.test):
            raise ValueError(f"{first} and {root} cannot be compared: they were tested on other images, so their "
                             "accuracies say nothing about one another")
    there = {root: {place(row.device): row.device for row in sessions if row.root == root} for root in manifests}
    for root in others:
        if there[root].keys() != there[first].keys():
            raise ValueError(f"{first} was measured on {'; '.join(there[first])} and {root} on "
                             f"{'; '.join(there[root])}: measure both on one device, or name one that both have "
                             "(--device)")
        for label, device in there[root].items():
            if found := device_differences(there[first][label], device):
                raise ValueError(f"{first} and {root} cannot be compared: {'; '.join(found)}")
    notes = ["families were not measured side by side: latencies within 5 % count as equal"]
    if any(m.source.data is None for m in manifests.values()):
        notes.append("the families' loaders are not on record: that they were tested on the same images is for you "
                     "to know")
    best = max(manifests, key=dense_accuracy)
    return [*notes, f"the dense model of {best} is the most accurate, and drops are from it"]


def headlines(among: Among) -> list[str]:
    """The headline of each family on each device; which one it is of is said where there are several."""
    rows, lines = among.sessions, []
    for row in rows:
        names = [str(row.root)] if len({r.root for r in rows}) > 1 else []
        names += [place(row.device)] if len({r.session for r in rows if r.root == row.root}) > 1 else []
        points = [p for p in among.points if (p.family, p.session) == (str(row.root), row.session)]
        text = headline_words(find_headline(row.root, points, row.session))
        lines.append(f"{', '.join(names)}: {text}" if names else text)
    return lines
