"""Masks straight from the order of removal, to compare those that patterns make of its scores with."""

import numpy as np

from mmprune.obs import Trace


def kept(found: Trace, zeros: int) -> np.ndarray:
    """(rows, columns) bool: all but the cheapest removals over all bands, at most `zeros` weights of them."""
    bands, blocks = found.order.shape
    cheapest = np.argsort(found.losses, axis=None, kind="stable")[:zeros // (found.width * found.height)]
    counts = np.bincount(cheapest // blocks, minlength=bands)  # losses never fall within a band: a prefix goes
    mask = np.ones((bands, blocks), bool)
    for band, count in enumerate(counts):
        mask[band, found.order[band, :count]] = False
    return mask.repeat(found.width, axis=1).repeat(found.height, axis=0)
