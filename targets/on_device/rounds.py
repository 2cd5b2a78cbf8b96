"""Interleaved measuring: in each round every model has a turn, in random order, while the device is watched.

The order is drawn again for every round, so that drifting heat and clocks affect all models equally, and so does
another program whose load has the period of our rounds; in a fixed order (A B C, C B A) it would always hit the same
models.
Temperature, throttling and clocks are read between rounds, never within a turn; only power is read within turns, by a
thread.
"""

import contextlib
import os
import time
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, TypeVar

from .job import Refused, say, say_error
from .power import POWER, PowerMeter
from .watch import Watch, wait_until_ready

SEED = 0  # for the order of turns


class Part(NamedTuple):
    """A part of a run, while it is measured."""

    job: Dict[str, Any]
    number: int
    started: str
    gate: Optional[Dict[str, Any]]  # what wait_until_ready returned; None without a gate
    watch: Watch


class Party(Protocol):
    """What takes turns."""

    @property
    def entry(self) -> Dict[str, Any]: ...


P = TypeVar("P", bound=Party)


@contextlib.contextmanager
def watched_part(job: Dict[str, Any], number: int) -> Iterator[Part]:
    """A Part of a run: wait for the device, read its idle power, and watch it while the block measures."""
    root, gate = job["sysroot"], None
    if job.get("gate"):
        say("progress", part=number, fraction=0)  # so that waiting does not look like a hanging memory pass
        gate = wait_until_ready(job["gate"], root)
    source = POWER[job["power"]](root) if job.get("power") else None
    with PowerMeter(source) as meter:
        if source:
            meter.read_idle()
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        yield Part(job, number, started, gate, Watch(root, meter))


def say_results(part: Part, rows: Iterable[Dict[str, Any]], **more: object) -> None:
    """Write a result for each of these rows, with the fields that all results of the part share, and `more`."""
    shared = dict(part.watch.evidence(), part=part.number, started=part.started, gate=part.gate,
                  pinned_clocks=bool(part.job.get("pin_clocks")))
    shared.update(more)
    about_all = ["throttled: " + reason for reason in part.watch.reasons]
    power = part.job.get("power")
    if power and not part.watch.meter.source:
        about_all.append("no energy: the source {} cannot be read here{}".format(
            power, ", only root may" if power == "rapl" and os.geteuid() else ""))
    for row in rows:
        say("result", **dict(row, notes=about_all + row["notes"]), **shared)


def next_order(before: Sequence[P], parties: Sequence[P], shuffle: Callable[[List[P]], None]) -> List[P]:
    """The parties in a new random order that does not begin with the party of the last turn.

    Two consecutive turns would differ from others, because a busy machine's scheduler prefers processes that slept.
    """
    order = list(parties)
    shuffle(order)
    return order[1:] + order[:1] if order[0] is before[-1] else order


def run_rounds(parties: Sequence[P], take_turn: Callable[[P], None], fraction: Callable[[List[P]], float],
               shuffle: Callable[[List[P]], None], tell: Callable[[float], None], watch: Watch) -> List[P]:
    """Run rounds until all parties are finished: every party has a turn in each round, so that all can be paired.

    parties    the participants; each has the `entry` that it belongs to
    take_turn  a function of a party; if it raises Refused, the entry's parties are removed, and an error row says why
    fraction   a function of the remaining parties that returns their progress in [0, 1]
    tell       called with that fraction once per second
    returns    the parties that succeeded
    """
    alive, order, told = list(parties), list(parties), time.monotonic()
    watch.begin_rounds()
    while alive and fraction(alive) < 1:
        order, gone = next_order(order, alive, shuffle), set()
        for party in order:
            if id(party.entry) in gone:
                continue
            try:
                take_turn(party)
            except Refused as err:
                say_error(party.entry, str(err))
                gone.add(id(party.entry))
        alive = [party for party in alive if id(party.entry) not in gone]
        watch.end_round()
        if alive and time.monotonic() - told > 1:
            tell(fraction(alive))
            told = time.monotonic()
    return alive
