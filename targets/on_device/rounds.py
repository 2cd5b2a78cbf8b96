"""Measures side by side: rounds in which each has a turn, in random order, watched from before the first to the last.

A round gives each a turn, in an order drawn anew for every round: heat and clocks that drift hit all alike, and so does
a neighbour whose load comes and goes in our own rhythm, which a fixed order (A B C, C B A) would let hit always the
same ones. What else is read (temperature, throttling, clocks) is read between rounds, never within a turn; only power
is, by a thread.
"""

import contextlib
import os
import time
from collections import namedtuple
from datetime import datetime, timezone

from .job import Refused, say, say_error
from .power import POWER, PowerMeter
from .watch import Watch, wait_until_ready

SEED = 0  # of the order of turns

Part = namedtuple("Part", "job number started gate watch meter")


@contextlib.contextmanager
def watched_part(job, number):
    """A Part of a run: the device is waited for, its idle power read, and it is watched while the block measures."""
    root, gate = job["sysroot"], None
    if job.get("gate"):
        say("progress", part=number, fraction=0)  # waiting must not look like a hanging memory pass
        gate = wait_until_ready(job["gate"], root)
    source = POWER[job["power"]](root) if job.get("power") else None
    with PowerMeter(source) as meter:
        if source:
            meter.read_idle()
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        yield Part(job, number, started, gate, Watch(root, meter), meter)


def say_results(part, rows, **more):
    """Say a result for each of these rows, with what all of the part have in common; `more` goes before that."""
    shared = dict(part.watch.evidence(), part=part.number, started=part.started, gate=part.gate,
                  pinned_clocks=bool(part.job.get("pin_clocks")))
    shared.update(more)
    about_all = ["throttled: " + reason for reason in part.watch.reasons]
    power = part.job.get("power")
    if power and not part.meter.source:
        about_all.append("no energy: {} cannot be read here{}".format(
            power, ", only root may" if power == "rapl" and os.geteuid() else ""))
    for row in rows:
        say("result", **dict(row, notes=about_all + row["notes"]), **shared)


def next_order(before, parties, shuffle):
    """The parties in a new random order that does not begin with the one that had the last turn.

    Two turns on end are not like others: a busy machine's scheduler favours who has slept.
    """
    order = list(parties)
    shuffle(order)
    return order[1:] + order[:1] if order[0] is before[-1] else order


def run_rounds(parties, take_turn, fraction, shuffle, tell, watch):
    """Rounds until all have come to the end: every party has a turn in each, so that each can be paired.

    parties    what takes turns; each has the `entry` that it is of
    take_turn  a function of a party; where it raises Refused, the entry's parties leave, and an error row says why
    fraction   a function of the parties that are left: how far they are, in [0, 1]
    tell       hears that fraction, once a second
    returns    the parties that came through
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
