"""The early-stopping estimate against the published table, and the paired ratio with its verdict."""

import dataclasses
import json

import pytest
from families import made_artifact, made_measurement, made_variant

from mmprune import folder
from mmprune.records import Gate
from mmprune.results.disturbed import disturbed_rounds
from mmprune.results.percentiles import latency_s, samples_needed, slower_allowed
from mmprune.results.speedup import compare, stability_notes

TABLE_90 = {64: 1, 100: 3, 200: 10, 500: 34, 662: 48, 1024: 80, 5000: 450, 24576: 2348}
TABLE_99 = {662: 1, 1024: 3, 5000: 33, 24576: 209}


@pytest.mark.parametrize(("percentile", "table"), [(90, TABLE_90), (99, TABLE_99)])
def test_the_published_table_comes_out(percentile, table):
    assert {n: slower_allowed(n, percentile) for n in table} == table


def test_the_floors_are_64_and_662_samples():
    assert (samples_needed(50), samples_needed(90), samples_needed(99)) == (1, 64, 662)
    assert latency_s([1.0] * 63, 90) is None
    assert latency_s([1.0] * 64, 90) == 1.0


def test_latencies_of_one_to_a_hundred():
    samples = [float(i) for i in range(1, 101)]
    assert latency_s(samples, 50) == 50.5
    assert latency_s(samples, 90) == 98.0  # the third largest
    assert latency_s(samples, 99) is None


@pytest.mark.parametrize(("samples", "percentile"), [([], 50), ([1.0], 0), ([1.0], 100)])
def test_nonsense_is_refused(samples, percentile):
    with pytest.raises(ValueError, match="percentile in"):
        latency_s(samples, percentile)


@pytest.fixture
def artifacts(tmp_path):
    return [made_artifact(tmp_path, made_variant(tmp_path, name, 0.9, 0.0)) for name in ("dense", "uniform")]


@pytest.mark.parametrize(("latency", "verdict"), [(0.008, "faster"), (0.00995, "no difference"), (0.0125, "slower")])
def test_the_verdict_needs_more_than_the_resolution(artifacts, latency, verdict):
    ratio = compare(made_measurement(artifacts[1], latency), made_measurement(artifacts[0], 0.010))
    assert ratio.value == pytest.approx(latency / 0.010)
    assert ratio.low <= ratio.value <= ratio.high
    assert (ratio.verdict, ratio.rounds) == (verdict, 10)


def test_noise_wider_than_the_difference_is_no_difference(artifacts):
    noisy = dataclasses.replace(made_measurement(artifacts[1], 0.01),
                                latencies_s=tuple((0.008,) * 3 if i % 2 else (0.0115,) * 3 for i in range(10)))
    ratio = compare(noisy, made_measurement(artifacts[0], 0.01))
    assert (ratio.low, ratio.high) == (0.8, 1.15)
    assert ratio.verdict == "no difference"


def test_one_process_claims_less_than_five(artifacts):
    """3 % faster in every round: that could be where one process's memory landed; not five times over."""
    mine, other = made_measurement(artifacts[1], 0.0097), made_measurement(artifacts[0], 0.010)
    assert compare(mine, other).verdict == "no difference"
    ratio = compare(dataclasses.replace(mine, processes=(2,) * 5), other)
    assert (ratio.processes, ratio.verdict) == (5, "faster")


def test_luck_that_differs_from_process_to_process_widens_the_interval(artifacts):
    lucky = tuple((0.0090 if i // 4 in (0, 1, 3) else 0.0105,) * 3 for i in range(20))  # 3 of 5 processes are fast
    mine = dataclasses.replace(made_measurement(artifacts[1], 0.01), latencies_s=lucky, processes=(4,) * 5)
    other = dataclasses.replace(made_measurement(artifacts[0], 0.01), latencies_s=((0.01,) * 3,) * 20)
    ratio = compare(mine, other)
    assert (ratio.value, ratio.verdict) == (pytest.approx(0.9), "no difference")


def test_few_rounds_say_nothing(artifacts):
    short = dataclasses.replace(made_measurement(artifacts[1], 0.001), latencies_s=((0.001,),) * 4)
    assert compare(short, made_measurement(artifacts[0], 0.01)).verdict == "no difference"


def test_other_sessions_threads_and_devices_are_not_compared(artifacts):
    mine, other = made_measurement(artifacts[1], 0.01), made_measurement(artifacts[0], 0.01)
    for field, value in (("session", "s.2"), ("threads", 2), ("device", dataclasses.replace(other.device, kernel="7"))):
        with pytest.raises(ValueError, match="cannot compare"):
            compare(mine, dataclasses.replace(other, **{field: value}))


def test_instability_is_said(artifacts):
    calm = made_measurement(artifacts[0], 0.01)
    assert stability_notes(calm) == []
    wild = dataclasses.replace(calm, latencies_s=((0.01,) * 9 + (0.03,),) * 10, throttled=True)
    text = "\n".join(stability_notes(wild))
    assert "standard deviation" in text and "slowest sample" in text and "throttled" in text
    hot = dataclasses.replace(wild, throttled_rounds=(3, 7), gate=Gate(50.0, 120.0, 121.5, 71.2, 0.25, reached=False))
    text = "\n".join(stability_notes(hot))
    assert "the device throttled in 2 of 10 rounds" in text
    assert "not idle and cool after 122 s of waiting: 71 °C (limit 50 °C), 25% of its cores busy" in text
    assert stability_notes(dataclasses.replace(calm, gate=Gate(50.0, 120.0, 3.0, 41.0, 0.0, reached=True))) == []
    blind = dataclasses.replace(calm, gate=Gate(50.0, 120.0, 120.0, None, None, reached=False))
    assert "its state is not reported" in stability_notes(blind)[0]
    rising = dataclasses.replace(calm, latencies_s=tuple((0.01 + 0.0001 * i,) * 4 for i in range(20)))
    assert any(note.startswith("drift: the last tenth is 18% slower") for note in stability_notes(rising))


def rounds_of(artifact, *rounds, processes=(), **told):
    return dataclasses.replace(made_measurement(artifact, 0.01), latencies_s=tuple(map(tuple, rounds)),
                               processes=processes, **told)


QUIET, SPARSE = [0.010] * 10, [0.0045] * 10  # milliseconds apart: the ratio is 0.45
TAKEN = [0.010] * 2 + [0.025] * 8  # a neighbour had the core for most of the round


def test_a_neighbour_that_nobody_tells_of_makes_no_verdict(artifacts):
    """The reference is slowed in half of its rounds: the medians' ratio is 0.18 there, the fastest tenths' 0.45."""
    mine, other = (rounds_of(artifacts[1], *[SPARSE] * 20), rounds_of(artifacts[0], *[QUIET, TAKEN] * 10))
    ratio = compare(mine, other)
    assert (ratio.verdict, ratio.low) == ("too busy to tell", pytest.approx(0.18))
    assert ratio.high == pytest.approx(0.45) and "the fastest tenths 0.45" in ratio.busy
    assert compare(other, mine).verdict == "too busy to tell"


@pytest.mark.parametrize("count", [2, 6, 12, 20])
def test_the_same_file_beside_a_neighbour_is_never_the_faster(artifacts, count):
    taken = [TAKEN] * count + [QUIET] * (20 - count)
    mine, other = rounds_of(artifacts[1], *[QUIET] * 20), rounds_of(artifacts[0], *taken)
    for ratio in (compare(mine, other), compare(other, mine)):
        assert ratio.verdict in ("too busy to tell", "no difference") and ratio.low <= 1 <= ratio.high


def lost(count, total, waited_s=0.012, waits=4):
    """What the kernel tells where the first `count` of `total` rounds were disturbed."""
    return {"waited_s": (waited_s,) * count + (1e-5,) * (total - count),
            "waits": (waits,) * count + (1,) * (total - count)}


SLOWED = [0.015] * 10  # all of it, by half: no statistic of the samples alone sees that


@pytest.mark.parametrize("told", [
    lost(10, 20), {"preemptions": (30,) * 10 + (0,) * 10}, {"stolen_s": (0.02,) * 10 + (0.0,) * 10},
])
def test_rounds_that_lost_the_cpu_are_left_out(artifacts, told):
    mine = rounds_of(artifacts[1], *[SPARSE] * 20)
    other = rounds_of(artifacts[0], *[SLOWED] * 10, *[QUIET] * 10, **told)
    ratio = compare(mine, other)
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(0.45),) * 3
    assert (ratio.verdict, ratio.rounds, ratio.disturbed) == ("faster", 10, 10)
    assert compare(other, mine).value == pytest.approx(1 / 0.45)
    note = "other programs took the CPU in 10 of 20 rounds, which are included in p50, p90 and p99"
    assert note in stability_notes(other) and note not in stability_notes(mine)


def test_too_few_rounds_left_is_a_verdict_of_its_own(artifacts):
    same = rounds_of(artifacts[1], *[QUIET] * 20)
    for count in (16, 20):
        other = rounds_of(artifacts[0], *[SLOWED] * count, *[QUIET] * (20 - count), **lost(count, 20))
        ratio = compare(same, other)
        assert (ratio.verdict, ratio.rounds) == ("too busy to tell", 20)
        assert ratio.busy == f"other programs disturbed {count} of 20 rounds"
    mine = rounds_of(artifacts[1], *[SLOWED] * 8, *[QUIET] * 12, **lost(8, 20))
    other = rounds_of(artifacts[0], *[QUIET] * 12, *[SLOWED] * 8, waited_s=(0.0,) * 12 + (0.012,) * 8,
                      waits=(0,) * 12 + (4,) * 8)
    assert compare(mine, other).verdict == "too busy to tell"  # four are left that neither lost


def test_short_waits_and_few_of_them_do_no_harm(artifacts):
    """Threads that wake up wait for an idle core too; one sample of a hundred that is hit moves no median."""
    waking = rounds_of(artifacts[0], *[[0.0005] * 100] * 20, waited_s=(0.004,) * 20, waits=(200,) * 20)
    hit = rounds_of(artifacts[0], *[[0.0005] * 99 + [0.009]] * 20, waited_s=(0.0085,) * 20, waits=(3,) * 20)
    power = rounds_of(artifacts[0], *[[0.05] * 4] * 20, waited_s=(0.004,) * 20, waits=(3,) * 20)
    crowd = dataclasses.replace(rounds_of(artifacts[0], *[QUIET] * 20, **lost(20, 20)), threads=4)  # of two cores
    for m in (waking, hit, power, crowd):
        assert not any(disturbed_rounds(m))


def test_processes_of_which_nothing_is_left_claim_less(artifacts):
    mine = rounds_of(artifacts[1], *[[0.0097] * 10] * 20, processes=(4,) * 5)
    other = rounds_of(artifacts[0], *[QUIET] * 20, processes=(4,) * 5)
    assert compare(mine, other).verdict == "faster"
    ratio = compare(mine, dataclasses.replace(other, **lost(4, 20)))
    assert (ratio.processes, ratio.rounds, ratio.verdict) == (4, 16, "no difference")


def test_what_the_kernel_told_is_kept_and_older_rows_do_without(artifacts, tmp_path):
    told = rounds_of(artifacts[0], *[QUIET] * 20, **lost(3, 20), preemptions=(1,) * 20, stolen_s=(0.0,) * 20)
    folder.append_measurement(tmp_path, told)
    row = json.loads((tmp_path / folder.MEASUREMENTS).read_text())
    for name in ("waited_s", "waits", "preemptions", "stolen_s"):
        del row[name]
    with open(tmp_path / folder.MEASUREMENTS, "a") as f:
        f.write(json.dumps(row) + "\n")
    read, old = folder.read_measurements(tmp_path)
    assert read == told and old.waited_s == () and compare(old, old).verdict == "no difference"
    with pytest.raises(ValueError, match="waits has 3 values for 20 rounds"):
        dataclasses.replace(told, waits=(1, 2, 3))
    with pytest.raises(ValueError, match="waited_s and waits must both be given"):
        dataclasses.replace(told, waits=())
