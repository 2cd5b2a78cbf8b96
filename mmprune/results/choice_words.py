"""A choice in words: the winner and its margins, and why the others lost."""

import math

from mmprune.results.choose import Budget, Choice, Miss, Room
from mmprune.results.percentiles import samples_needed
from mmprune.results.points import Point
from mmprune.results.units import milliseconds

NEAR = 6  # files that fitted, and as many that did not, of which `explain` says why they lost
WANTED = {"accuracy": "the most accurate", "speed": "the fastest", "size": "the smallest",
          "memory": "the one with the least memory"}
EQUAL = {"accuracy": "as accurate", "speed": "as fast", "size": "as small", "memory": "of equal memory"}
WORSE = {"accuracy": "less accurate", "speed": "slower", "size": "larger to download", "memory": "larger in memory"}


def describe(choice: Choice) -> str:
    """The choice in a few lines of text."""
    lines = [_rule(choice)]
    if choice.winner is None:
        lines.append("nothing fits the budget")
    else:
        lines.append(f"{_file(choice.winner, choice)}: {choice.winner.accuracy:.2%} accurate, "
                     f"{milliseconds(choice.winner.p50_s)} ms (p50)")
        lines += [f"  {_room_text(room, choice.budget)}: {_margin(room)} to spare" for room in choice.rooms]
        if (ratio := choice.winner.ratio) is not None:
            said = f"{ratio.verdict}: {ratio.busy}; measure again on an idle machine" if ratio.busy else ratio.verdict
            lines.append(f"  {ratio.low:.2f} to {ratio.high:.2f} of the dense model's latency with "
                         f"{choice.winner.runtime}: {said}")
    if choice.runner_up is not None:
        lines.append(f"runner-up: {_file(choice.runner_up, choice)}, {choice.runner_up.accuracy:.2%}, "
                     f"{_lost(choice.runner_up, choice)}")
    if choice.nearest_miss is not None:
        lines.append(f"nearest miss: {_missed(choice.nearest_miss, choice)}")
    return "\n".join(lines)


def explain(choice: Choice) -> str:
    """Why each near candidate lost, one a line."""
    fitting, rest = choice.ranked[1:NEAR + 1], choice.ranked[NEAR + 1:]
    near, far = choice.misses[:NEAR], choice.misses[NEAR:]
    lines = [f"  fits, but {_lost(p, choice)}: {_file(p, choice)}" for p in fitting]
    lines += [f"  and {len(rest)} more that fit"] if rest else []
    lines += [f"  does not fit: {_missed(miss, choice)}" for miss in near]
    lines += [f"  and {len(far)} more that fit less"] if far else []
    return "\n".join(["why not:", *lines]) if lines else "why not: there is no other"


def _rule(choice: Choice) -> str:
    order = choice.order
    goal, then = order.goal, order.then[0]
    where = f", by the worst of {len(choice.devices)} devices" if len(choice.devices) > 1 else ""
    within = {"accuracy": " (within half a test image)" if order.test_images else "", "size": "",
              **dict.fromkeys(("speed", "memory"), f" (within {order.resolution:.0%})")}[goal]
    by = f" by p{order.percentile}"
    return (f"wanted: {WANTED[goal]}{by if goal == 'speed' else ''} within the limits{where}; of those {EQUAL[goal]}"
            f"{within} {WANTED[then]}{by if then == 'speed' else ''}")


def _file(point: Point, choice: Choice) -> str:
    families = {p.family for p in (*choice.ranked, *(m.point for m in choice.misses))}
    prefix = f"{point.family}: " if len(families) > 1 else ""
    return f"{prefix}{point.artifact} with {point.runtime}"


def _lost(point: Point, choice: Choice) -> str:
    """Why a file that fits is not the winner."""
    order, best = choice.order, choice.winner
    assert best is not None
    for name in (order.goal, *order.then):
        mine, least = (order.cost(name)(p) for p in (point, best))
        if not order.equal(name, min(mine, least), max(mine, least)) and mine > least:
            equal = "" if name == order.goal else f"{EQUAL[order.goal]}, but "
            return f"{equal}{WORSE[name]}: {_values(name, point, best, choice.order.percentile)}"
    return "equal in all that was asked"


def _values(name: str, point: Point, best: Point, percentile: int) -> str:
    """Both values, with the digits that tell them apart."""
    if name == "accuracy":
        texts, unit = _unlike(point.accuracy * 100, best.accuracy * 100, 2), "%"
    elif name == "speed":
        slower, faster = (p.latency_s(percentile) for p in (point, best))
        if slower is None or faster is None:
            return f"p{percentile} is unknown, too few samples"
        texts, unit = _unlike(slower * 1e3, faster * 1e3, 3), "ms"
    else:
        mine, least = (p.download_bytes if name == "size" else p.peak_bytes for p in (point, best))
        texts, unit = _unlike(mine / 2**20, least / 2**20, 2), "MiB"
    return f"{texts[0]} {unit}, not {texts[1]}"


def _unlike(a: float, b: float, digits: int) -> tuple[str, str]:
    """Both with so many decimals, or more until they are not the same text."""
    while digits < 9 and f"{a:.{digits}f}" == f"{b:.{digits}f}":
        digits += 1
    return f"{a:.{digits}f}", f"{b:.{digits}f}"


def _missed(miss: Miss, choice: Choice) -> str:
    by = f"by {_margin(miss.room)}" if miss.room.value is not None else "as unknown"
    return (f"{_file(miss.point, choice)}, {miss.point.accuracy:.2%}, fails {by}: "
            f"{_room_text(miss.room, choice.budget)}")


def _room_text(room: Room, budget: Budget) -> str:
    where = f" on {room.device}" if room.device else ""
    if room.value is None and room.limit == "energy":
        return f"energy was not measured: no power sensor was found{where or ' on the device'}"
    if room.value is None:
        need = samples_needed(budget.limit_percentile)
        return f"p{budget.limit_percentile} needs {need} samples or more{where}: measure with a longer profile"
    if room.limit in ("accuracy", "drop"):
        value, allowed = _apart(room.value * 100, room.allowed * 100, 2)
        below = ""
        if room.limit == "drop":
            points = f"{100 * (budget.max_drop or 0):g}"
            below = f" ({points} point{'' if points == '1' else 's'} below dense)"
        return f"accuracy {value}%, at least {allowed}%{below}"
    if room.limit == "latency":
        value, allowed = _apart(room.value * 1e3, room.allowed * 1e3, 2)
        return f"p{budget.limit_percentile} {value} ms of {allowed} ms{where}"
    if room.limit == "energy":
        value, allowed = _apart(room.value * 1e3, room.allowed * 1e3, 2)
        return f"energy {value} mJ of {allowed} mJ{where}"
    name = {"size": "download", "memory": "peak memory"}[room.limit]
    value, allowed = _apart(room.value / 2**20, room.allowed / 2**20, 1)
    return f"{name} {value} MiB of {allowed} MiB{where}"


def _margin(room: Room) -> str:
    """How far the value is from its limit: an accuracy in points, anything else as a share of the limit."""
    if room.limit in ("accuracy", "drop") and room.value is not None:
        points = 100 * abs(room.value - room.allowed)
        return f"{points:.2f} points" if points >= 0.005 or not points else f"{points:.1g} points"
    return f"{room.share:.0%}" if room.share >= 0 else _percent(-room.share)


def _apart(value: float, allowed: float, digits: int) -> tuple[str, str]:
    """Both as text, with `digits` decimals, or more if needed for two digits and to show which of the two is larger."""
    digits = max(digits, 1 - math.floor(math.log10(value))) if value > 0 else digits
    for more in range(digits, 16):
        texts = f"{value:.{more}f}", f"{allowed:.{max(more, 6)}g}"
        shown = [float(text) for text in texts]
        if value == allowed or (shown[0] != shown[1] and (shown[0] < shown[1]) == (value < allowed)):
            break
    return texts


def _percent(share: float) -> str:
    """Percent with one decimal; with one significant digit if it would be 0.0%."""
    return f"{share:.1%}" if share >= 0.0005 else f"{share * 100:.1g}%" if share >= 1e-6 else "less than 0.0001%"
