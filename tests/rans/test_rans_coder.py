"""The rANS coder against its plain Python twin, its golden streams, and damaged data."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import rans_reference as reference
from hypothesis import given
from hypothesis import strategies as st
from rans_cases import (
    INT32_MAX,
    INT32_MIN,
    gaussian_tables,
    tables_from_frequencies,
    ugly_symbols,
    ugly_tables,
)

from icmh_rt import rans
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import coder

GOLDEN = Path(__file__).parents[1] / "golden"
LANES = (1, 2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def small():
    """300 ugly symbols, their indexes and their tables at 12 bits."""
    tables = ugly_tables(12)
    symbols, indexes = ugly_symbols(tables, 300, np.random.default_rng(0))
    return symbols, indexes, tables


def same_layouts(count):
    """Every lane count with every valid number of chunks among a few; 0 is the own choice."""
    for lanes in (0, *LANES):
        for chunks in (0, 1, 2, 3, 7):
            if chunks == 0 or (count >= chunks and (chunks - 1) * -(-count // chunks) < count):
                yield lanes, chunks


@pytest.mark.parametrize("precision", [12, 13, 14, 15, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 257])
def test_bytes_equal_the_twin(precision, count):
    tables = ugly_tables(precision)
    rows = reference.rows_of(tables)
    symbols, indexes = ugly_symbols(tables, count, np.random.default_rng(count))
    for lanes, chunks in same_layouts(count):
        data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
        assert data == reference.encode(symbols, indexes, rows, precision, lanes, chunks)
        assert rans.decode(data, indexes, tables).tolist() == symbols.tolist()
    assert reference.decode(data, indexes, rows, precision) == (symbols.tolist(), 0)


@pytest.mark.parametrize("lanes", LANES)
def test_bytes_equal_the_twin_on_many_symbols(lanes):
    tables = ugly_tables(14)
    rows = reference.rows_of(tables)
    symbols, indexes = ugly_symbols(tables, 4097, np.random.default_rng(lanes), escape_rate=0.01)
    for chunks in (1, 5):
        data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
        assert data == reference.encode(symbols, indexes, rows, 14, lanes, chunks)
        np.testing.assert_array_equal(rans.decode(data, indexes, tables), symbols)


def test_own_layout_of_a_larger_plane_equals_the_twin():
    """A plane whose payload makes the encoder choose 32 lanes and several chunks."""
    tables = ugly_tables(12)
    rng = np.random.default_rng(5)
    count = 3 * 2**17
    indexes = np.full(count, 5, dtype=np.uint8)  # the row of 4096 equal frequencies: 12 bits each
    symbols = rng.integers(-2048, 2047, count).astype(np.int32)
    data = rans.encode(symbols, indexes, tables)
    assert data[0] == 5 + 8
    assert data[1] == 3  # chunks
    np.testing.assert_array_equal(rans.decode(data, indexes, tables), symbols)
    rows = reference.rows_of(tables)
    values = symbols.tolist()
    assert reference.choose_layout(values, [rows[5]] * count, 12) == (32, 3)
    size = 2**17
    last = reference.encode_chunk(values[2 * size :], [rows[5]] * size, 12, 32)
    assert data.endswith(last)


def test_tail_that_cannot_fill_the_lanes():
    """Symbols that cost nothing emit no words: the tail stops at its cap, lanes stay empty."""
    tables = ugly_tables(16)
    rows = reference.rows_of(tables)
    symbols = np.zeros(9000, dtype=np.int32)
    indexes = np.ones(9000, dtype=np.uint8)
    data = coder._encode(symbols, indexes, tables, lanes=32, chunks=1)
    assert data == reference.encode(symbols, indexes, rows, 16, 32, 1)
    assert not np.any(rans.decode(data, indexes, tables))
    assert len(rans.encode(symbols, indexes, tables)) <= 5


@given(st.data())
def test_round_trip_of_anything(data):
    precision = data.draw(st.integers(12, 16))
    total = 2**precision
    num_rows = data.draw(st.integers(1, 5))
    rows = []
    for _ in range(num_rows):
        cuts = data.draw(st.sets(st.integers(1, total - 1), max_size=30))
        edges = [0, *sorted(cuts), total]
        rows.append(np.diff(edges).tolist())
    offsets = [data.draw(st.integers(INT32_MIN, INT32_MAX - len(row))) for row in rows]
    tables = tables_from_frequencies(rows, offsets, precision)
    near = [st.integers(max(o - 3, INT32_MIN), min(o + 40, INT32_MAX)) for o in offsets]
    symbol = st.one_of(*near, st.integers(INT32_MIN, INT32_MAX))
    pairs = data.draw(st.lists(st.tuples(symbol, st.integers(0, num_rows - 1)), max_size=200))
    symbols = np.array([pair[0] for pair in pairs], dtype=np.int32)
    indexes = np.array([pair[1] for pair in pairs], dtype=np.uint16)
    lanes = data.draw(st.sampled_from((0, *LANES)))
    stream = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=0)
    assert stream == reference.encode(
        symbols, indexes, reference.rows_of(tables), precision, lanes, 0
    )
    np.testing.assert_array_equal(rans.decode(stream, indexes, tables), symbols)


@pytest.mark.parametrize("name", ["empty", "one", "small", "lanes32", "chunks", "own_layout"])
def test_golden_streams(name):
    with np.load(GOLDEN / "rans.npz") as golden:
        precision, lanes, chunks = golden[f"{name}.layout"].tolist()
        symbols, indexes = golden[f"{name}.symbols"], golden[f"{name}.indexes"]
        stream = golden[f"{name}.stream"].tobytes()
    tables = ugly_tables(precision)
    np.testing.assert_array_equal(rans.decode(stream, indexes, tables), symbols)
    assert coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks) == stream


def test_arrays_of_every_dtype_and_shape(small):
    tables = gaussian_tables([0.5, 1.0, 2.0], 14)
    rng = np.random.default_rng(3)
    symbols = rng.integers(-9, 9, (5, 6, 7))
    indexes = rng.integers(0, 3, (5, 6, 7))
    expected = rans.encode(symbols, indexes, tables)
    for symbol_type in (np.int8, np.int16, np.int32, np.int64, ">i4"):
        for index_type in (np.uint8, np.uint16, np.int32, np.int64, ">u2"):
            own_indexes = indexes.astype(index_type)
            assert rans.encode(symbols.astype(symbol_type), own_indexes, tables) == expected
            decoded = rans.decode(expected, own_indexes, tables)
            assert decoded.dtype == np.int32
            assert decoded.shape == (5, 6, 7)
            np.testing.assert_array_equal(decoded, symbols)
    turned = rans.encode(symbols.T, indexes.T, tables)  # not contiguous: C order of the view
    np.testing.assert_array_equal(rans.decode(turned, indexes.T, tables), symbols.T)
    for kind in (bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(rans.decode(kind(expected), indexes, tables), symbols)


def test_empty_input_is_one_byte():
    tables = ugly_tables(12)
    data = rans.encode([], [], tables)
    assert data == b"\0"
    assert rans.decode(data, np.zeros((0, 4), np.uint8), tables).shape == (0, 4)
    for bad in (b"", b"\1", b"\0\0", b"\x08"):
        with pytest.raises(BitstreamError):
            rans.decode(bad, [], tables)


# Sizes


@pytest.mark.parametrize("precision", [12, 14, 16])
@pytest.mark.parametrize("count", [1, 16, 256, 1000, 5000, 20_000, 60_000, 300_000])
def test_size_is_close_to_the_information(precision, count):
    scales = np.geomspace(0.11, 20, 24)
    tables = gaussian_tables(scales, precision)
    rng = np.random.default_rng(count)
    for rows in (24, 6):  # about 2.5 and 0.1 bits a symbol
        indexes = rng.integers(0, rows, count)
        symbols = np.rint(rng.normal(size=count) * scales[indexes]).astype(np.int32)
        size = len(rans.encode(symbols, indexes, tables))
        assert size <= tables.bits(symbols, indexes) * 1.003 / 8 + 8


def test_every_forced_lane_costs_about_a_byte():
    tables = gaussian_tables([1.0], 14)
    symbols = np.rint(np.random.default_rng(1).normal(size=20_000)).astype(np.int32)
    indexes = np.zeros(20_000, np.uint8)
    one = len(coder._encode(symbols, indexes, tables, lanes=1, chunks=1))
    many = len(coder._encode(symbols, indexes, tables, lanes=32, chunks=1))
    assert many - one <= 31 * 1.5 + 3


def test_bits_counts_tables_and_escapes():
    tables = tables_from_frequencies([[2**11, 2**10, 2**10], [2**12]], [0, 0], 12)
    assert tables.bits([0, 1], [0, 0]) == 1 + 2
    # Escape interval 2 bits; distance 0: "1" and a side bit; distance 5: "00110" and a side bit.
    assert tables.bits([2], [0]) == 2 + 2
    assert tables.bits([-6], [0]) == 2 + 6
    assert tables.bits([INT32_MIN, INT32_MAX], [1, 1]) == (63 + 1) + (63 + 1)
    assert tables.bits([], []) == 0


def test_bits_equal_the_twin(small):
    symbols, indexes, tables = small
    rows = reference.rows_of(tables)
    expected = 0.0
    for symbol, index in zip(symbols.tolist(), indexes.tolist(), strict=True):
        row = rows[index]
        interval = row.interval(symbol)
        expected += 12 - np.log2(row.frequencies[interval])
        if interval == row.count:
            expected += len(reference.escape_bits(symbol, row))
    assert tables.bits(symbols, indexes) == pytest.approx(expected, rel=1e-12)


# Damaged data


def decode_or_error(data, indexes, tables):
    try:
        symbols = rans.decode(data, indexes, tables)
    except BitstreamError as error:
        assert "\n" not in str(error)
        return None
    assert symbols.shape == indexes.shape
    return symbols


def unsealed_by_twin(data, indexes, rows):
    """What the twin decodes at precision 12, None for a corrupt or sealed stream."""
    try:
        symbols, seal = reference.decode(data, indexes, rows, 12)
    except reference.Corrupt:
        return None
    return symbols if seal == 0 else None


@pytest.mark.parametrize(("lanes", "chunks"), [(1, 1), (4, 1), (32, 1), (2, 3), (0, 0)])
def test_every_altered_byte_and_bit(small, lanes, chunks):
    """An altered stream is an error or other symbols, exactly as for the twin."""
    symbols, indexes, tables = small
    rows = reference.rows_of(tables)
    good = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
    refused = 0
    for position in range(len(good)):
        for change in (1 << position % 8, 0xFF):
            bad = bytearray(good)
            bad[position] ^= change
            decoded = decode_or_error(bytes(bad), indexes, tables)
            refused += decoded is None
            assert decoded is None or not np.array_equal(decoded, symbols)
            if position < 200 and change == 0xFF:
                expected = unsealed_by_twin(bad, indexes, rows)
                assert (None if decoded is None else decoded.tolist()) == expected
    # The escape bits are not redundant; everything else nearly always contradicts itself.
    assert refused > len(good)


@pytest.mark.parametrize(("lanes", "chunks"), [(1, 1), (4, 1), (32, 1), (2, 3)])
def test_every_truncation_and_extension_is_an_error(small, lanes, chunks):
    symbols, indexes, tables = small
    good = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
    for size in range(len(good)):
        with pytest.raises(BitstreamError):
            rans.decode(good[:size], indexes, tables)
    for extra in (b"\0", b"\xff", b"\0" * 100):
        with pytest.raises(BitstreamError):
            rans.decode(good + extra, indexes, tables)


def test_altered_streams_without_escapes_are_nearly_always_refused():
    tables = gaussian_tables([1.0, 3.0], 14)
    rng = np.random.default_rng(9)
    indexes = rng.integers(0, 2, 2000)
    symbols = np.clip(np.rint(rng.normal(size=2000) * (1 + 2 * indexes)), -5, 5).astype(np.int32)
    good = coder._encode(symbols, indexes, tables, lanes=4, chunks=1)
    missed = 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        missed += decode_or_error(bytes(bad), indexes, tables) is not None
    assert missed <= 2


@given(st.binary(max_size=120), st.integers(0, 80))
def test_random_bytes_never_surprise(data, count):
    tables = ugly_tables(12)
    indexes = np.arange(count) % tables.num_tables
    symbols = decode_or_error(data, indexes, tables)
    expected = unsealed_by_twin(data, indexes, reference.rows_of(tables))
    assert (None if symbols is None else symbols.tolist()) == expected


def test_streams_for_another_count_or_other_tables_are_errors(small):
    symbols, indexes, tables = small
    data = coder._encode(symbols, indexes, tables, lanes=4, chunks=1)
    for other in (indexes[:-1], np.append(indexes, np.uint8(1)), np.roll(indexes, 1)):
        with pytest.raises(BitstreamError):
            rans.decode(data, other, tables)
    with pytest.raises(BitstreamError):
        rans.decode(data, indexes, ugly_tables(13))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x06" + b"\xff" * 40, "first byte 6"),
        (b"\x10" + b"\xff" * 40, "first byte 16"),
        (b"\x08\xff\xff\xff\xff\x0f" + b"\xff" * 40, "number of chunks"),
        (b"\x08\x01" + b"\xff" * 40, "number of chunks"),
        (b"\x08\x82\x00" + b"\xff" * 40, "number of chunks"),  # not the shortest varint
        (b"\x08\x63" + b"\xff" * 40, "do not split into 99"),
        (b"\x08\x64\x01", "chunk lengths"),
        (b"\x08\x02\xff\xff\xff\xff\x0f", "within chunk 0"),
        (b"\x00\xff\xff", "lane states"),
        (b"\x00\xff\xff\x00\x00", "below 2\\*\\*16"),
        (b"\x01\x65" + b"\xff" * 40, "tail length"),
    ],
)
def test_what_is_wrong_is_said(data, message):
    with pytest.raises(BitstreamError, match=message):
        rans.decode(data, np.full(100, 7, np.uint8), ugly_tables(12))


# Arguments


@pytest.mark.parametrize(
    ("symbols", "indexes", "message"),
    [
        ([1, 2], [0], "shape"),
        ([1.0, 2.0], [0, 0], "dtype float64"),
        ([True], [0], "dtype bool"),
        ([1], [0.0], "dtype float64"),
        ([1], [-1], "indexes holds -1"),
        ([1], [10], "indexes holds 10"),
        ([1], [2**40], "indexes holds"),
        ([2**31], [0], "symbols holds 2147483648"),
        ([-(2**31) - 1], [0], "symbols holds -2147483649"),
        (np.array([2**63], np.uint64), [0], "symbols holds"),
    ],
)
def test_bad_planes(symbols, indexes, message):
    tables = ugly_tables(12)
    with pytest.raises(OptionError, match=message):
        rans.encode(symbols, indexes, tables)
    with pytest.raises(OptionError, match=message):
        tables.bits(symbols, indexes)


def test_bad_decoder_arguments():
    tables = ugly_tables(12)
    with pytest.raises(OptionError, match="give bytes"):
        rans.decode("text", [0], tables)
    with pytest.raises(OptionError, match="contiguous"):
        rans.decode(memoryview(b"abcdef")[::2], [0], tables)
    with pytest.raises(OptionError, match="indexes holds 10"):
        rans.decode(b"\0", [10], tables)
    with pytest.raises(OptionError, match=r"Tables\.from_cdfs"):
        rans.decode(b"\0", [0], [[0, 4096]])
    with pytest.raises(OptionError, match=r"Tables\.from_cdfs"):
        rans.encode([0], [0], None)


@pytest.mark.parametrize(("lanes", "chunks"), [(3, 1), (64, 1), (1, 11), (1, 9)])
def test_layouts_that_do_not_exist(lanes, chunks):
    with pytest.raises(OptionError, match="cannot encode"):
        coder._encode([0] * 10, [0] * 10, ugly_tables(12), lanes=lanes, chunks=chunks)


def test_threads_share_tables(small):
    symbols, indexes, tables = small
    data = rans.encode(symbols, indexes, tables)
    results = []

    def work():
        for _ in range(50):
            results.append(np.array_equal(rans.decode(data, indexes, tables), symbols))
            results.append(rans.encode(symbols, indexes, tables) == data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 400
    assert all(results)


def test_tables_copy_and_pickle(small):
    symbols, indexes, tables = small
    data = rans.encode(symbols, indexes, tables)
    for other in (
        copy.deepcopy(tables),
        pickle.loads(pickle.dumps(tables)),
        rans.Tables.from_arrays(tables.to_arrays()),
    ):
        assert other == tables
        assert rans.encode(symbols, indexes, other) == data


@pytest.mark.parametrize("seal", [0, 1, 0x8000, 0xFFFF])
@pytest.mark.parametrize(("lanes", "chunks"), [(1, 1), (4, 1), (32, 1), (2, 3), (0, 0)])
@pytest.mark.parametrize("count", [1, 33, 3000])
def test_seals_come_back(seal, lanes, chunks, count):
    chunks = min(chunks, count)
    for precision in (12, 16):
        tables = ugly_tables(precision)
        rows = reference.rows_of(tables)
        symbols, indexes = ugly_symbols(tables, count, np.random.default_rng(count))
        data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks, seal=seal)
        assert data == reference.encode(symbols, indexes, rows, precision, lanes, chunks, seal)
        decoded, found = rans.decode_sealed(data, indexes, tables)
        assert found == seal and np.array_equal(decoded, symbols)
        assert reference.decode(data, indexes, rows, precision) == (symbols.tolist(), seal)
        if seal:
            with pytest.raises(BitstreamError, match=f"its seal is {seal}"):
                rans.decode(data, indexes, tables)


def test_a_seal_costs_no_byte():
    tables = gaussian_tables([1.0, 3.0], 14)
    symbols = np.zeros(256, np.int32)
    indexes = np.zeros(256, np.uint8)
    sizes = [len(rans.encode(symbols, indexes, tables, seal=s)) for s in range(0, 2**16, 257)]
    assert max(sizes) - sizes[0] <= 2  # at most the one word that a renormalisation stores


@pytest.mark.parametrize("seal", [-1, 2**16, 0.5, True, None])
def test_bad_seals_are_refused(seal):
    with pytest.raises(OptionError, match="seal is"):
        rans.encode([0], [0], ugly_tables(12), seal=seal)


def test_an_empty_plane_carries_no_seal():
    with pytest.raises(OptionError, match="carries no seal"):
        rans.encode([], [], ugly_tables(12), seal=5)
    assert rans.decode_sealed(rans.encode([], [], ugly_tables(12)), [], ugly_tables(12))[1] == 0
