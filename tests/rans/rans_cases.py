"""Ugly tables and symbols for the rANS tests and their golden streams: seeded, exact integers."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from icmh_rt.rans import Tables

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def tables_from_frequencies(rows, offsets, precision):
    """Tables whose row i has exactly these frequencies (the last is the escape)."""
    columns = max(len(row) for row in rows) + 1
    cdfs = np.zeros((len(rows), columns), dtype=np.int64)
    for i, row in enumerate(rows):
        cdfs[i, 1 : len(row) + 1] = np.cumsum(row)
    return Tables.from_cdfs(cdfs, [len(row) + 1 for row in rows], offsets, precision)


def ugly_tables(precision):
    """Rows at every extreme: nothing but an escape, one near-certain value, all frequencies 1..."""
    total = 2**precision
    # By formula, not by a generator: the golden streams depend on these tables.
    mixed = np.arange(1, 41) * 37 % 97 + 1
    rows = [
        ([total], 0),  # every value is an escape, of probability 1
        ([total - 1, 1], 0),
        ([1, total - 1], -7),
        ([1, total - 2, 1], INT32_MAX - 1),
        ([1, total - 2, 1], INT32_MIN),
        ([1] * total, -total // 2),
        ([total // 2, total // 2], 5),
        ([total // 3, 1, total // 3, 1, total - 2 * (total // 3) - 2], -2),
        ([*mixed, total - int(mixed.sum())], -20),
        ([*mixed[::2], total - int(mixed[::2].sum()) - 1, 1], -10),
    ]
    return tables_from_frequencies([row for row, _ in rows], [o for _, o in rows], precision)


def ugly_symbols(tables, count, rng, escape_rate=0.05):
    """Symbols drawn from the tables, some replaced by values near and far outside of them."""
    indexes = rng.integers(0, tables.num_tables, count)
    slots = rng.integers(0, 2**tables.precision, count)
    symbols = np.empty(count, dtype=np.int64)
    far = [INT32_MIN, INT32_MAX, INT32_MIN + 1, 0, -1, 2**16, -(2**16)]
    for i, (index, slot) in enumerate(zip(indexes, slots, strict=True)):
        length = tables.lengths[index]
        interval = int(np.searchsorted(tables.cdfs[index, :length], slot, side="right")) - 1
        symbols[i] = int(tables.offsets[index]) + interval
        if interval == length - 2:  # the escape: near, or anywhere
            symbols[i] += int(rng.integers(0, 40))
        if rng.random() < escape_rate:
            symbols[i] = far[int(rng.integers(len(far)))]
    return np.clip(symbols, INT32_MIN, INT32_MAX).astype(np.int32), indexes.astype(np.uint8)


def gaussian_pmf(scale, num_sigmas=6.0):
    """Probabilities of a rounded zero-mean Gaussian and the value of the first."""
    half = int(np.ceil(scale * num_sigmas)) + 1
    edges = np.arange(-half, half + 2) - 0.5
    cdf = np.array([0.5 * (1 + erf(edge / scale / sqrt(2))) for edge in edges])
    return np.diff(cdf), -half


def gaussian_tables(scales, precision):
    """One row per scale."""
    rows = [gaussian_pmf(scale) for scale in scales]
    return Tables.from_pmfs(
        [pmf for pmf, _ in rows], offsets=[offset for _, offset in rows], precision=precision
    )
