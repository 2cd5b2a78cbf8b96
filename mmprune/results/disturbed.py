"""Finds the rounds of a measurement that other programs disturbed, from the kernel's scheduling statistics."""

from mmprune.records import Measurement

# A thread that wakes up also waits for an idle core: about 0.01 ms, up to this value if cores sleep deeply. If the core
# is taken, it waits for a time slice of the other thread, which is 1 to 10 ms.
WAKING_S = 1e-4
# Fraction of a round's time. On a Raspberry Pi 5 our own power readings start programs that take 1 or 2 % from a model
# on all cores, and the same from its reference; another computing program takes half.
HARMLESS = 0.03
# Each wait affects one sample, so a round of many short inferences keeps a correct median and low percentile: with a
# tenth of the samples affected, the median of all is at most the 56th percentile of the others.
HIT = 0.10
PREEMPTIONS_PER_S = 50  # if waits are not reported: an idle kernel interrupts a busy thread about ten times per second
STOLEN_S = 1e-3  # the shortest time that a hypervisor takes at once


def disturbed_rounds(m: Measurement) -> tuple[bool, ...]:
    """For each round, whether its median may be wrong because more than a tenth of its samples lost the CPU.

    False if the kernel did not report it, or if there are more threads than cores, which then wait for one another.
    """
    crowded = m.threads > m.device.cores
    return tuple((not crowded and _waits(m, i, samples) > HIT * len(samples))
                 or _thefts(m, i, samples) > HIT * len(samples) for i, samples in enumerate(m.latencies_s))


def _waits(m: Measurement, i: int, samples: tuple[float, ...]) -> float:
    """How often threads waited in round i; 0 if the waiting time was negligible."""
    if m.waited_s:
        return m.waits[i] if m.waited_s[i] - m.waits[i] * WAKING_S > HARMLESS * sum(samples) else 0
    if m.preemptions:
        return m.preemptions[i] if m.preemptions[i] > 1 + PREEMPTIONS_PER_S * sum(samples) else 0
    return 0


def _thefts(m: Measurement, i: int, samples: tuple[float, ...]) -> float:
    """The most times that the hypervisor can have taken a core in round i; 0 if the time was negligible."""
    taken_s = m.stolen_s[i] if m.stolen_s else 0.0
    return taken_s / STOLEN_S if taken_s > HARMLESS * sum(samples) else 0
