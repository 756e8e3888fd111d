"""What the first bytes of a stream tell, against the whole of it and the plain Python twin."""

from __future__ import annotations

import numpy as np
import pytest
import rans_reference as reference
from hypothesis import given
from hypothesis import strategies as st
from rans_cases import ugly_symbols, ugly_tables

from icmh_rt import OptionError, _native, rans
from icmh_rt.rans.coder import _encode

TABLES = rans.Tables.from_pmfs(
    [[0.5, 0.25, 0.125, 0.125], [0.05, 0.9, 0.05, 0.0]], offsets=[-2, -1], precision=12
)
ROWS = reference.rows_of(TABLES)
LEVELS = list(_native.module().simd_levels())


def plane(size: int, escapes: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and indexes; some far outside of their rows."""
    generator = np.random.default_rng(seed)
    symbols = generator.integers(-1, 2, size).astype(np.int32)
    if escapes:
        places = generator.random(size) < 0.01
        symbols[places] = generator.integers(-(2**20), 2**20, places.sum())
    return symbols, generator.integers(0, 2, size).astype(np.uint8)


def twin(data, indexes, rows, precision):
    """What the text in plain Python finds: symbols, zeros for the others, and which are known."""
    found = reference.decode_beginning(data, indexes, rows, precision)
    known = np.array([symbol is not None for symbol in found], bool)
    return np.array([symbol or 0 for symbol in found], np.int32), known


def check(data, indexes, tables=TABLES, rows=ROWS):
    """At every level what the twin finds; that."""
    expected = twin(data, indexes, rows, tables.precision)
    for level in LEVELS:
        found = rans.decode_beginning(data, indexes, tables, level=level)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    return expected


@pytest.mark.parametrize("escapes", [False, True])
@pytest.mark.parametrize(
    ("size", "lanes", "chunks"),
    [(1, 1, 1), (7, 4, 1), (300, 1, 1), (500, 2, 3), (900, 16, 1), (2000, 64, 1), (1501, 32, 5)],
)
def test_what_is_told_is_true_at_every_cut(size, lanes, chunks, escapes):
    symbols, indexes = plane(size, escapes)
    data = _encode(symbols, indexes, TABLES, lanes=lanes, chunks=chunks, seal=77)
    before = np.zeros(size, bool)
    for cut in range(len(data) + 1):
        found, known = check(data[:cut], indexes)
        np.testing.assert_array_equal(found[known], symbols[known])
        assert not found[~known].any()
        assert known[before].all(), f"more bytes tell less, at {cut}"
        before = known
    assert before.all()


@pytest.mark.parametrize("precision", [12, 16])
def test_ugly_tables(precision):
    tables = ugly_tables(precision)
    rows = reference.rows_of(tables)
    symbols, indexes = ugly_symbols(tables, 150, np.random.default_rng(precision))
    for lanes, chunks in ((1, 1), (16, 2)):
        data = _encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
        for cut in range(len(data) + 1):
            found, known = check(data[:cut], indexes, tables, rows)
            np.testing.assert_array_equal(found[known], symbols[known])
        assert known.all()


@pytest.mark.parametrize("lanes", [1, 8, 64])
def test_all_but_the_escapes_arrives_without_their_values(lanes):
    """Where the words end, every other symbol is known; every byte more tells some escapes."""
    symbols, indexes = plane(3000, escapes=True)
    data = _encode(symbols, indexes, TABLES, lanes=lanes, chunks=1)
    outside = (symbols < -2) | (symbols > 1) | ((indexes == 1) & (symbols < -1))
    assert 20 < outside.sum() < 40
    bits = sum(
        len(reference.escape_bits(int(symbols[i]), ROWS[indexes[i]])) for i in outside.nonzero()[0]
    )
    words_end = len(data) - -(-bits // 8)
    _, known = rans.decode_beginning(data[:words_end], indexes, TABLES)
    np.testing.assert_array_equal(known, ~outside)
    told = [
        rans.decode_beginning(data[:cut], indexes, TABLES)[1].sum()
        for cut in range(words_end, len(data) + 1)
    ]
    assert told == sorted(told) and told[-1] == 3000 and len(set(told)) > 20


def test_lanes_go_on_until_each_needs_a_word():
    """The last word that is there is not the end: the other lanes' states hold more symbols."""
    symbols, indexes = plane(2000, escapes=False)
    data = _encode(symbols, indexes, TABLES, lanes=64, chunks=1)
    _, known = rans.decode_beginning(data[: len(data) // 2], indexes, TABLES)
    gap = int(known.argmin())
    assert known[gap:].sum() > 64, "symbols behind the first unknown one"
    # Of the states alone, and of some of them.
    whole = rans.decode_beginning(data[:240], indexes, TABLES)[1].sum()
    some = rans.decode_beginning(data[:40], indexes, TABLES)[1]
    assert 0 < some.sum() < whole and not some[16:64].any()


def test_much_of_the_stream_tells_much():
    """Half the bytes of an even plane are nearly half its symbols, with or without escapes."""
    for escapes in (False, True):
        symbols, indexes = plane(400_000, escapes)
        for chunks in (1, 4):
            data = _encode(symbols, indexes, TABLES, lanes=32, chunks=chunks)
            for share in (0.25, 0.5, 0.7):
                _, known = rans.decode_beginning(data[: int(share * len(data))], indexes, TABLES)
                assert share - 0.03 < known.mean() < share + (0.15 if escapes else 0.03)


@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 5))
def test_any_bytes_at_all(data, size, seed):
    """Nothing to crash on, and what the twin finds."""
    _, indexes = plane(size, escapes=False, seed=seed)
    found, known = check(data, indexes)
    assert found.shape == known.shape == indexes.shape
    assert not found[~known].any()


@given(st.data())
def test_altered_streams(data):
    symbols, indexes = plane(700, escapes=True)
    stream = bytearray(_encode(symbols, indexes, TABLES, lanes=8, chunks=2))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(stream[: data.draw(st.integers(0, len(stream)))]), indexes)


def test_arguments_are_checked():
    with pytest.raises(OptionError, match="tables is a list"):
        rans.decode_beginning(b"", np.zeros(3, np.uint8), [])
    with pytest.raises(OptionError, match="data is a str"):
        rans.decode_beginning("", np.zeros(3, np.uint8), TABLES)
    symbols, indexes = plane(50, escapes=False)
    data = rans.encode(symbols, indexes, TABLES)
    indexes[-1] = 7
    for cut in (0, len(data) // 2, len(data)):  # whether it is come to or not
        with pytest.raises(OptionError, match=r"index|row"):
            rans.decode_beginning(data[:cut], indexes, TABLES)
    found, known = rans.decode_beginning(b"", np.zeros((0, 3), np.uint8), TABLES)
    assert found.shape == known.shape == (0, 3)
    planes = np.zeros((2, 5, 3), np.uint8)
    data = rans.encode(planes, planes, TABLES)
    found, known = rans.decode_beginning(data, planes, TABLES)
    assert found.shape == known.shape == (2, 5, 3) and known.all() and known.dtype == bool
