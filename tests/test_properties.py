"""What holds for all values, with values that hypothesis makes up: masks, ranges, strategies, the front, the choice and
the layout of memory, each against its definition."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import made_family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters.mmrt import layout
from mmprune.layers import KINDS
from mmprune.patterns import PATTERNS, ZEROS, make_masks, zeros_in_blocks
from mmprune.ranges import find_bounds, find_ranges
from mmprune.records import Layer
from mmprune.results.choose import Budget, choose
from mmprune.results.points import pareto, read_points
from mmprune.strategies import STRATEGIES, plan, zero_count

QUICK = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SPARSITIES = st.floats(0, 0.999)
KIND = st.sampled_from(KINDS)


@st.composite
def scores(draw):
    """(out, in) or (out, in, kh, kw), with many equal values."""
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 34)), *draw(st.sampled_from(((), (1, 1), (3, 2)))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return torch.from_numpy(rng.integers(0, draw(st.sampled_from((2, 9, 10**6))), shape).astype(np.float32))


@QUICK
@given(scores(), SPARSITIES, SPARSITIES, KIND, st.sampled_from(sorted(PATTERNS)))
def test_masks_zero_what_they_say_and_are_nested(score, one, other, kind, pattern):
    low, high = sorted((one, other))
    sparse, sparser = (make_masks({"x": score}, {"x": s}, pattern, {"x": kind})["x"] for s in (low, high))
    assert sparse.shape == score.shape and sparse.dtype == torch.bool and sparse.is_contiguous()
    assert not (sparser & ~sparse).any(), "what a lower sparsity zeroes a higher one zeroes, too"
    zeros, wanted = int((~sparse).sum()), zero_count(score.numel(), low)
    if pattern == "unstructured":
        assert zeros == wanted == ZEROS[pattern](score.shape, low, kind)
        assert zeros in (0, score.numel()) or score[~sparse].max() <= score[sparse].min()
    elif pattern == "2:4":
        assert zeros == ZEROS[pattern](score.shape, low, kind)
        if zeros:
            assert (sparse.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
    else:
        axis = 1 if pattern == "block-1x4" else 0
        assert zeros == 0 or wanted - 3 <= zeros <= wanted
        assert abs(zeros - ZEROS[pattern](score.shape, low, kind)) <= (0 if score.shape[axis] % 4 == 0 else 3)
        turned = sparse if axis else sparse.transpose(0, 1)
        assert zeros_in_blocks(turned) == zeros, "only whole blocks are zero"


@st.composite
def layers(draw):
    shapes = st.tuples(st.integers(1, 64), st.integers(1, 64), st.just(3), st.just(3))
    count = draw(st.integers(1, 8))
    return tuple(Layer(f"l{i}.weight", draw(KIND), i / max(1, count - 1), draw(shapes), 1) for i in range(count))


@QUICK
@given(layers(), st.sampled_from(("any", "resnet18", "vgg11", "swin_tiny_patch4_window7", "levit_384")))
def test_every_strategy_stays_within_the_ranges(found, model):
    if "swin" in model:
        found = tuple(dataclasses.replace(x, name=f"layers.{i % 4}.{x.name}") for i, x in enumerate(found))
    ranges = find_ranges(model, found)
    assert list(ranges) == [x.name for x in found]
    assert all(0 <= r.low <= r.high < 1 for r in (*ranges.values(), *find_bounds(found).values()))
    planned = {s.name: s.sparsity for s in plan(tuple(STRATEGIES), found, ranges)}
    for name, sparsity in planned.items():
        assert all(ranges[k].low - 1e-12 <= s <= ranges[k].high + 1e-12 for k, s in sparsity.items()), name
    rising = ["min", *(f"interp-{a}" for a in range(20, 100, 10)), "max"]
    for key in ranges:
        assert sorted(planned[name][key] for name in rising) == [planned[name][key] for name in rising]


POINTS = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5))), max_size=12)


@QUICK
@given(POINTS)
def test_the_front_is_what_no_other_point_beats(pairs):
    points = [SimpleNamespace(accuracy=accuracy, cost=cost) for accuracy, cost in pairs]
    known = [p for p in points if p.cost is not None]
    beaten = {id(p) for p in known for q in known if (q.accuracy >= p.accuracy and q.cost < p.cost)
              or (q.cost <= p.cost and q.accuracy > p.accuracy)}
    front = pareto(points, lambda p: p.cost)
    assert sorted(map(id, front)) == sorted(id(p) for p in known if id(p) not in beaten)
    assert [p.cost for p in front] == sorted(p.cost for p in front)


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    made_family(root, [("dense", 0.9, 0.0, 0.01)])
    return read_points(root)[0]


@QUICK
@given(files=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 9)), min_size=1, max_size=10),
       limit=st.integers(1, 9), more=st.integers(0, 9))
def test_a_choice_keeps_its_limits_and_more_room_is_never_worse(point, files, limit, more):
    points = [dataclasses.replace(point, artifact=f"v{i}/onnx-f32", accuracy=accuracy / 100, download_bytes=size)
              for i, (accuracy, size) in enumerate(files)]
    tight, wide = (choose(points, Budget(max_size_bytes=size)) for size in (limit, limit + more))
    for found, size in ((tight, limit), (wide, limit + more)):
        fits = {p.artifact for p in points if p.download_bytes <= size}
        assert {p.artifact for p in found.ranked} == fits
        assert len(found.ranked) + len(found.misses) == len(points)
        assert all(miss.room.share < 0 for miss in found.misses) and all(room.share >= 0 for room in found.rooms)
        assert (found.winner is None) == (not fits)
    if tight.winner is not None:
        assert tight.winner.accuracy == max(p.accuracy for p in tight.ranked)
        assert wide.winner.accuracy >= tight.winner.accuracy


# ---- the layout of mmrt's memory ----------------------------------------------------------------------------------

DIMS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def elements(view):
    """The number of the arena's element at each index of the view."""
    last = view.offset + sum((dim - 1) * stride for dim, stride in zip(view.dims, view.strides, strict=True))
    return np.lib.stride_tricks.as_strided(np.arange(last + 1)[view.offset:], view.dims,
                                           [8 * stride for stride in view.strides], writeable=False)


@st.composite
def views(draw):
    """Of a packed tensor, transposed and cut, or with any strides."""
    dims = draw(DIMS)
    if draw(st.booleans()):
        strides = draw(st.lists(st.integers(0, 30), min_size=len(dims), max_size=len(dims)))
        return layout.View(0, draw(st.integers(0, 40)), tuple(dims), tuple(strides))
    order = draw(st.permutations(range(len(dims))))
    strides, _ = layout.pack(dims, order, draw(st.integers(0, len(dims))))
    view = layout.View(0, 16 * draw(st.integers(0, 3)), tuple(dims), strides)
    starts = [draw(st.integers(0, dim - 1)) for dim in dims]
    steps = [draw(st.integers(1, 2)) for _ in dims]
    return layout.cut(view, starts, steps, [-(-(dim - start) // step) for dim, start, step
                                            in zip(dims, starts, steps, strict=True)])


@st.composite
def reshaped(draw):
    """A view and other dims of as many elements: its prime factors in other groups."""
    view = draw(views())
    left, dims = math.prod(view.dims), []
    while left > 1:
        dim = draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0]))
        dims.append(dim)
        left //= dim
    for _ in range(draw(st.integers(0, 2))):
        dims.insert(draw(st.integers(0, len(dims))), 1)
    return view, tuple(dims)


@QUICK
@given(reshaped())
def test_a_reshaped_view_has_the_same_elements_in_the_same_order(pair):
    view, dims = pair
    found = layout.reshape(view, dims)
    if found is not None:
        assert found.dims == dims
        np.testing.assert_array_equal(elements(found), elements(view).reshape(dims))
    packed, _ = layout.pack(view.dims, range(len(view.dims)))
    assert layout.reshape(dataclasses.replace(view, strides=packed), dims) is not None
    assert layout.reshape(view, view.dims) is not None


@QUICK
@given(views(), st.data())
def test_views_of_views_are_numpys(view, data):
    perm = data.draw(st.permutations(range(len(view.dims))))
    np.testing.assert_array_equal(elements(layout.transpose(view, perm)), elements(view).transpose(perm))
    wider = (*data.draw(st.lists(st.integers(1, 3), max_size=2)),
             *(data.draw(st.integers(1, 4)) if dim == 1 else dim for dim in view.dims))
    np.testing.assert_array_equal(elements(layout.expand(view, wider)), np.broadcast_to(elements(view), wider))
    if not layout.repeats(view):
        assert len(np.unique(elements(view))) == math.prod(view.dims)


@QUICK
@given(DIMS, st.data())
def test_packed_tensors_do_not_repeat_and_fit_their_size(dims, data):
    order = data.draw(st.permutations(range(len(dims))))
    strides, size = layout.pack(dims, order, data.draw(st.integers(0, len(dims))))
    view = layout.View(0, 0, tuple(dims), strides)
    assert not layout.repeats(view) and elements(view).max() < size


@QUICK
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(-1, 8), st.integers(0, 8)), max_size=14))
def test_buffers_in_use_at_the_same_time_share_nothing(buffers):
    sizes, lives = [size for size, *_ in buffers], [(first, first + more) for _, first, more in buffers]
    offsets, total = layout.arrange(sizes, lives)
    taken = [(offset, offset + layout.up(size)) for offset, size in zip(offsets, sizes, strict=True)]
    assert all(offset % layout.VECTOR == 0 and offset >= 0 for offset in offsets)
    assert max((end for _, end in taken), default=0) == total <= sum(map(layout.up, sizes))
    for i, (begin, end) in enumerate(taken):
        for j in range(i):
            together = lives[j][0] <= lives[i][1] and lives[i][0] <= lives[j][1]
            assert not together or taken[j][1] <= begin or end <= taken[j][0]
