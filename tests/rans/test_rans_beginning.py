"""What the first bytes of a stream tell, against the whole of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rans_cases import ugly_symbols, ugly_tables

from icmh_rt import OptionError, _native, rans
from icmh_rt.rans.coder import _encode

TABLES = rans.Tables.from_pmfs(
    [[0.5, 0.25, 0.125, 0.125], [0.05, 0.9, 0.05, 0.0]], offsets=[-2, -1], precision=12
)
LEVELS = list(_native.module().simd_levels())


def plane(size: int, escapes: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and indexes; some far outside of their rows."""
    generator = np.random.default_rng(seed)
    symbols = generator.integers(-1, 2, size).astype(np.int32)
    if escapes:
        places = generator.random(size) < 0.01
        symbols[places] = generator.integers(-(2**20), 2**20, places.sum())
    return symbols, generator.integers(0, 2, size).astype(np.uint8)


def cuts(size: int) -> list[int]:
    """All positions of a short stream, some of a long one, and both ends of any."""
    inner = range(0, size, max(1, size // 97))
    return sorted({*range(min(size, 40)), *inner, *range(max(0, size - 40), size + 1)})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("escapes", [False, True])
@pytest.mark.parametrize(
    ("size", "lanes", "chunks"),
    [(1, 1, 1), (7, 4, 1), (300, 1, 1), (500, 2, 3), (900, 16, 1), (4000, 64, 1), (3001, 32, 5)],
)
def test_what_is_told_is_true_at_every_cut(size, lanes, chunks, escapes, level):
    symbols, indexes = plane(size, escapes)
    data = _encode(symbols, indexes, TABLES, lanes=lanes, chunks=chunks, seal=77)
    before = 0
    for cut in cuts(len(data)):
        found, count = rans.decode_beginning(data[:cut], indexes, TABLES, level=level)
        np.testing.assert_array_equal(found[:count], symbols[:count])
        assert not found[count:].any()
        assert before <= count <= size, f"more bytes tell less, at {cut}"
        before = count
        if level != LEVELS[0]:
            _, scalar = rans.decode_beginning(data[:cut], indexes, TABLES, level=LEVELS[0])
            assert count == scalar
    assert before == size


@pytest.mark.parametrize("precision", [12, 16])
def test_ugly_tables(precision):
    tables = ugly_tables(precision)
    symbols, indexes = ugly_symbols(tables, 600, np.random.default_rng(precision))
    for lanes, chunks in ((1, 1), (16, 2)):
        data = _encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
        for cut in cuts(len(data)):
            found, count = rans.decode_beginning(data[:cut], indexes, tables)
            np.testing.assert_array_equal(found[:count], symbols[:count])
        assert count == 600


def test_much_of_the_stream_tells_much():
    """The count is no mere truth: half the bytes of an even plane are nearly half its symbols."""
    symbols, indexes = plane(400_000, escapes=False)
    for chunks in (1, 4):
        data = _encode(symbols, indexes, TABLES, lanes=32, chunks=chunks)
        for share in (0.25, 0.5, 0.9):
            _, count = rans.decode_beginning(data[: int(share * len(data))], indexes, TABLES)
            assert abs(count / 400_000 - share) < 0.03


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 5))
def test_any_bytes_at_all(data, size, seed):
    """Nothing to crash on, and as many symbols as there are indexes at most."""
    _, indexes = plane(size, escapes=False, seed=seed)
    found, count = rans.decode_beginning(data, indexes, TABLES)
    assert found.shape == indexes.shape and 0 <= count <= size
    assert not found[count:].any()


@given(st.data())
def test_altered_streams(data):
    symbols, indexes = plane(700, escapes=True)
    stream = bytearray(_encode(symbols, indexes, TABLES, lanes=8, chunks=2))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    _, count = rans.decode_beginning(bytes(stream[:cut]), indexes, TABLES)
    assert 0 <= count <= 700


def test_arguments_are_checked():
    with pytest.raises(OptionError, match="tables is a list"):
        rans.decode_beginning(b"", np.zeros(3, np.uint8), [])
    with pytest.raises(OptionError, match="data is a str"):
        rans.decode_beginning("", np.zeros(3, np.uint8), TABLES)
    symbols, indexes = plane(50, escapes=False)
    data = rans.encode(symbols, indexes, TABLES)
    with pytest.raises(OptionError, match=r"index|row"):
        rans.decode_beginning(data, indexes + 7, TABLES)
    found, count = rans.decode_beginning(b"", np.zeros((0, 3), np.uint8), TABLES)
    assert found.shape == (0, 3) and count == 0
