"""A family's results and a choice as JSON for programs; docs/json.md says what each field means."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune.results.choose import Choice, Room
from mmprune.results.headline import Headline, Pairs, find_headline, headline_words
from mmprune.results.points import Point, dense_accuracy, one_session, pareto, read_session
from mmprune.results.speedup import Ratio

SCHEMA = 1  # of all of mmprune's JSON; a field that changes its meaning or goes away raises it, a new one does not


def family_json(root: Path, points: Sequence[Point], session: str = "") -> str:
    """The headline, the session and every measured file."""
    found, pairs = find_headline(root, points, session), Pairs(one_session(root, session))
    front = pareto(points, lambda p: p.p50_s)
    rival = found.rival or found.own
    files = [{**file_fields(p), "on_front": p in front, "of_fastest_dense": ratio_fields(pairs.ratio(p, rival))}
             for p in points]
    return as_text({"family": str(root), "headline": headline_fields(found), "session": session_fields(root, session),
                    "dense_accuracy": dense_accuracy(root), "files": files})


def choice_json(choice: Choice) -> str:
    """A choice: what was asked, the winner and its margins, what else fits, and what does not."""
    misses = [{**file_fields(m.point), "missed": _room_fields(m.room)} for m in choice.misses]
    return as_text({"goal": choice.order.goal, "percentile": choice.order.percentile, "budget": asdict(choice.budget),
                    "devices": list(choice.devices), "dense_accuracy": choice.dense_accuracy,
                    "winner": choice.winner and file_fields(choice.winner),
                    "margins": [_room_fields(room) for room in choice.rooms],
                    "others": [file_fields(p) for p in choice.ranked[1:]], "misses": misses})


def _room_fields(room: Room) -> dict[str, Any]:
    known = room.value is not None
    return {**asdict(room), "share": room.share if known else None}


def as_text(fields: dict[str, Any]) -> str:
    """The fields as a line of JSON, with the schema's number."""
    return json.dumps({"schema": SCHEMA, **fields}, allow_nan=False)


def headline_fields(found: Headline) -> dict[str, Any]:
    return {"text": headline_words(found), "faster": found.faster, "means_nothing": bool(found.guessing),
            "dense_accuracy": found.accuracy,
            "sparse": found.sparse and file_fields(found.sparse), "rival": found.rival and file_fields(found.rival),
            "of_rival": ratio_fields(found.of_rival), "own": found.own and file_fields(found.own),
            "of_own": ratio_fields(found.of_own)}


def session_fields(root: Path, session: str = "") -> dict[str, Any]:
    read = read_session(root, session)
    return {"name": read.name, "profile": read.profile, "started": read.started, "commit": read.commit,
            "rounds": read.rounds, "device": asdict(read.device), "fingerprint": read.device.fingerprint}


def file_fields(p: Point) -> dict[str, Any]:
    """A measured file; times in seconds, sizes in bytes, shares as fractions."""
    plain = ("family", "variant", "strategy", "artifact", "format", "precision", "runtime", "runtime_version",
             "threads", "device", "session", "accuracy", "sparsity", "samples", "p50_s", "p90_s", "p99_s", "file_bytes",
             "download_bytes", "peak_bytes", "memory_bytes", "energy_j", "dense", "tuned")
    return {**{name: getattr(p, name) for name in plain}, "of_dense": ratio_fields(p.ratio), "notes": list(p.notes)}


def ratio_fields(ratio: Ratio | None) -> dict[str, Any] | None:
    """A ratio of latencies: below 1 is faster. An end of the interval that is not known is null."""
    if ratio is None:
        return None
    known = ratio.low > 0 and ratio.high < float("inf")
    return {"value": ratio.value, "low": ratio.low if known else None, "high": ratio.high if known else None,
            "verdict": ratio.verdict, "rounds": ratio.rounds, "processes": ratio.processes, "busy": ratio.busy}
