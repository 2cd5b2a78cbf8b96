"""Axes: what is tied, split, cut and fixed."""

import numpy as np
import pytest

from mmprune.axes import Axis, entries, fix, joined, leaves, part, regrouped, resolved, size, tie


def dim(*sizes):
    return tuple(Axis(n) for n in sizes)


def free(d):
    return [not leaf.fixed for leaf in leaves(d)]


def test_a_fixed_axis_fixes_what_is_tied_to_it_before_and_after():
    a, b, c = dim(8), dim(8), dim(8)
    tie(a, b)
    fix(b)
    tie(c, a)
    assert free(a) == free(b) == free(c) == [False]


def test_a_reshape_splits_whatever_is_tied():
    weight, x = dim(24), dim(24)
    tie(weight, x)
    heads = regrouped([x, dim(5)], [2, 3, 4, 5])
    assert [size(d) for d in heads] == [2, 3, 4, 5] and [a.size for a in resolved(weight)] == [2, 3, 4]
    fix(heads[0])
    assert free(weight) == [False, True, True]
    assert regrouped(heads, [24, 5])[0] == resolved(weight)


def test_entries_name_the_places_of_an_axis_in_a_product_and_in_segments():
    a, b = dim(2), dim(3)
    assert entries((*a, *b), b[0]).tolist() == [0, 1, 2, 0, 1, 2]
    assert entries((*a, *b), a[0]).tolist() == [0, 0, 0, 1, 1, 1]
    assert entries(joined([a, b, a]), a[0]).tolist() == [0, 1, -1, -1, -1, 0, 1]
    assert entries((*a, *a), a[0]) is None


def test_slices_cut_an_axis_and_concatenations_meet_at_every_boundary():
    a = dim(10)
    low, high = part(a, 0, 4), part(a, 4, 10)
    fix(low)
    assert free(a) == [False, True] and part(a, 4, 10) == high
    b = joined([dim(2), dim(8)])
    tie(a, b)
    assert [leaf.size for leaf in leaves(b)] == [leaf.size for leaf in leaves(a)] == [2, 2, 6]
    assert free(b) == [False, False, True]


def test_a_whole_axis_tied_to_segments_is_cut_with_them():
    a, b = dim(6), joined([dim(2), dim(4)])
    fix(a)
    tie(b, a)
    assert free(b) == [False, False] and [leaf.size for leaf in leaves(a)] == [2, 4]


def test_concatenations_of_concatenations_meet_at_every_boundary():
    a, b = joined([joined([dim(4), dim(4)]), dim(4)]), joined([dim(2), joined([dim(8), dim(2)])])
    fix(part(a, 0, 4))
    tie(a, b)
    for d in (a, b):
        assert [leaf.size for leaf in leaves(d)] == [2, 2, 4, 2, 2] and free(d) == [False, False, True, True, True]


@pytest.mark.parametrize("sizes", [(4, 3), (3, 4), (2, 6)])
def test_products_of_two_kinds_split_further_or_are_fixed(sizes):
    a, b = dim(6, 2), dim(*sizes)
    tie(a, b)
    if sizes == (4, 3):  # 3 and 2 have no common part
        assert not any(free(a) + free(b))
    else:
        assert [leaf.size for leaf in leaves(a)] == [leaf.size for leaf in leaves(b)] and all(free(a))


def test_a_slice_across_a_product_fixes_it():
    a = dim(3, 4)
    assert free(part(a, 2, 6)) == [False] and free(a) == [False, False]


def test_a_reshape_that_no_product_describes_fixes_only_what_it_cuts_across():
    outer, places, channels = dim(5), dim(8, 7), dim(6)
    found = regrouped([outer, places, channels], [5, 28, 2, 6])
    assert [size(d) for d in found] == [5, 28, 2, 6]
    assert free(outer) == free(channels) == [True] and free(places) == [False, False]
    assert found[0] == outer and found[3] == channels


@pytest.mark.parametrize("sizes", [(4, 3), (2, 2, 3)])
def test_a_reshape_whose_factors_do_not_divide_ends_and_is_fixed(sizes):
    dims = [dim(n) for n in sizes]
    found = regrouped(dims, [3, 4])
    assert [size(d) for d in found] == [3, 4]
    assert not any(any(free(d)) for d in (*dims, *found))


def test_random_reshapes_keep_places_in_flat_order():
    generator = np.random.default_rng(0)
    for _ in range(50):
        parts = generator.choice([1, 2, 3, 4], 5)
        cuts = sorted(generator.choice(6, 2))
        groups = [parts[: cuts[0]], parts[cuts[0]:cuts[1]], parts[cuts[1]:]]
        whole = dim(int(parts.prod()))
        pieces = regrouped([whole], [int(n) for n in parts])
        again = regrouped(pieces, [int(g.prod()) for g in groups])
        assert [size(d) for d in again] == [g.prod() for g in groups]
        flat = tuple(axis for d in again for axis in d)
        for leaf in leaves(whole):
            assert (entries(whole, leaf) == entries(flat, leaf)).all()


def test_what_was_tied_stays_tied_through_random_joins_slices_and_reshapes():
    generator = np.random.default_rng(1)
    for _ in range(300):
        dims, tied = [dim(int(n)) for n in generator.choice([2, 3, 4, 6, 8, 12], 5)], []
        for step in generator.choice(["join", "part", "tie", "regroup"], 8):
            a, b = (dims[i] for i in generator.integers(len(dims), size=2))
            if step == "join":
                dims.append(joined([a, b]))
            elif step == "part":
                dims.append(part(a, *sorted(int(at) for at in generator.choice(size(a) + 1, 2, replace=False))))
            elif step == "tie":
                alike = [d for d in dims if size(d) == size(a)]
                tied.append((a, alike[generator.integers(len(alike))]))
                tie(*tied[-1])
            else:
                whole = size(a) * size(b)
                first = int(generator.choice([n for n in range(1, whole + 1) if whole % n == 0]))
                found = regrouped([a, b], [first, whole // first])
                assert [size(d) for d in found] == [first, whole // first]
                tied.append(((*a, *b), (*found[0], *found[1])))
        for pair in tied:
            for leaf in leaves((*pair[0], *pair[1])):
                if not leaf.fixed:
                    one, other = (entries(d, leaf) for d in pair)
                    assert one is other is None or (one == other).all()
