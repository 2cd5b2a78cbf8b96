"""Which rounds of a measurement other programs disturbed, by what the kernel said of them while they ran."""

from mmprune.records import Measurement

# A thread that wakes up waits for a core too, an idle one: some 0.01 ms, up to this where cores sleep deeply. Who finds
# the core taken waits for a time slice of the other, which is 1 to 10 ms.
WAKING_S = 1e-4
# Of a round's time: our own reading of power starts programs on a Raspberry Pi 5, which take 1 or 2 % from a model that
# has all cores, and from its reference as much. Another program that computes takes a half.
HARMLESS = 0.03
# Each wait hits one sample, so a round of many short inferences keeps a right median and a right low percentile: with
# a tenth of the samples hit, the median of all is at most the 56th percentile of the others.
HIT = 0.10
PREEMPTIONS_PER_S = 50  # where waits are not told: an idle kernel interrupts a busy thread some ten times a second
STOLEN_S = 1e-3  # the least that a hypervisor takes at a time


def disturbed_rounds(m: Measurement) -> tuple[bool, ...]:
    """For each round, whether its median may be wrong: more than a tenth of its samples lost the CPU meanwhile.

    False where the kernel did not tell. With more threads than cores they wait for one another, and that is no sign.
    """
    crowded = m.threads > m.device.cores
    return tuple((not crowded and _waits(m, i, samples) > HIT * len(samples))
                 or _thefts(m, i, samples) > HIT * len(samples) for i, samples in enumerate(m.latencies_s))


def _waits(m: Measurement, i: int, samples: tuple[float, ...]) -> float:
    """How often threads waited in round i, 0 where that took no time worth speaking of."""
    if m.waited_s:
        return m.waits[i] if m.waited_s[i] - m.waits[i] * WAKING_S > HARMLESS * sum(samples) else 0
    if m.preemptions:
        return m.preemptions[i] if m.preemptions[i] > 1 + PREEMPTIONS_PER_S * sum(samples) else 0
    return 0


def _thefts(m: Measurement, i: int, samples: tuple[float, ...]) -> float:
    """How often the hypervisor took a core in round i, at most; 0 where that took no time worth speaking of."""
    taken_s = m.stolen_s[i] if m.stolen_s else 0.0
    return taken_s / STOLEN_S if taken_s > HARMLESS * sum(samples) else 0
