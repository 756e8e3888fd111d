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

from icmh_rt import _native, rans
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import coder

GOLDEN = Path(__file__).parents[1] / "golden"
LANES = (1, 2, 4, 8, 16, 32, 64)
LEVELS = _native.module().simd_levels()


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
    """A plane whose payload makes the encoder choose 64 lanes and several chunks."""
    tables = ugly_tables(12)
    rng = np.random.default_rng(5)
    count = 5 * 2**17
    indexes = np.full(count, 5, dtype=np.uint8)  # the row of 4096 equal frequencies: 12 bits each
    symbols = rng.integers(-2048, 2047, count).astype(np.int32)
    data = rans.encode(symbols, indexes, tables)
    assert data[0] == 6 + 8
    assert data[1] == 4  # chunks: the power of two below 5
    np.testing.assert_array_equal(rans.decode(data, indexes, tables), symbols)
    rows = reference.rows_of(tables)
    values = symbols.tolist()
    payload = reference.estimate_payload(values, [rows[5]] * count, 12)
    assert reference.choose_layout(payload, count, 0, 0) == (64, 4)
    size = count // 4
    last = reference.encode_chunk(values[3 * size :], [rows[5]] * size, 12, 64)
    assert data.endswith(last)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", [12, 14, 16])
@pytest.mark.parametrize("lanes", LANES)
def test_every_level_gives_the_bytes_of_the_twin(level, precision, lanes):
    tables = ugly_tables(precision)
    rows = reference.rows_of(tables)
    for count, escape_rate in ((lanes - 1, 0.1), (lanes, 0.1), (3 * lanes + 1, 0.5), (1500, 0.01)):
        rng = np.random.default_rng(lanes + count)
        symbols, indexes = ugly_symbols(tables, count, rng, escape_rate)
        chunks = 1 if count < 1000 else 2
        data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks, level=level)
        if count:
            assert data == reference.encode(symbols, indexes, rows, precision, lanes, chunks)
        decoded, _ = coder._decode(data, indexes, tables, level=level)
        np.testing.assert_array_equal(decoded, symbols)


def test_levels_that_do_not_exist(small):
    symbols, indexes, tables = small
    with pytest.raises(OptionError, match="no instruction set level 'sse9'"):
        coder._encode(symbols, indexes, tables, level="sse9")


def test_threads_do_not_change_a_byte():
    tables = gaussian_tables([2.0, 4.0], 14)
    rng = np.random.default_rng(1)
    indexes = rng.integers(0, 2, 700_001).astype(np.uint8)
    symbols = np.rint(rng.normal(size=indexes.size) * np.array([2.0, 4.0])[indexes])
    symbols = symbols.astype(np.int16)
    data = rans.encode(symbols, indexes, tables, threads=1)
    assert data[0] & 8 and data[1] == 4
    forced = coder._encode(symbols, indexes, tables, lanes=16, chunks=100, threads=1)
    for threads in (2, 3, 64, None):
        assert rans.encode(symbols, indexes, tables, threads=threads) == data
        for stream in (data, forced):
            decoded = rans.decode(stream, indexes, tables, threads=threads)
            np.testing.assert_array_equal(decoded, symbols)
        again = coder._encode(symbols, indexes, tables, lanes=16, chunks=100, threads=threads)
        assert again == forced
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(OptionError, match="threads is"):
            rans.encode(symbols, indexes, tables, threads=bad)


@pytest.mark.parametrize("costly", [True, False])
def test_a_misled_estimate_is_noticed(costly):
    """The estimate looks at every 65th symbol: here these alone cost much, or alone cost little."""
    tables = tables_from_frequencies([[2**14 - 1, 1], [1] * 2**14], [0, -(2**13)], 14)
    rng = np.random.default_rng(2)
    count = 2**18
    is_costly = (np.arange(count) % 65 == 0) == costly
    symbols = np.where(is_costly, rng.integers(-(2**13), 2**13 - 1, count), 0).astype(np.int32)
    indexes = is_costly.astype(np.uint8)
    data = rans.encode(symbols, indexes, tables)
    rows = reference.rows_of(tables)
    assert data == reference.encode(symbols, indexes, rows, 14)
    np.testing.assert_array_equal(rans.decode(data, indexes, tables), symbols)
    assert len(data) <= tables.bits(symbols, indexes) * 1.003 / 8 + 8
    estimated = reference.estimate_payload(symbols.tolist(), [rows[i] for i in indexes], 14)
    assert costly == (estimated > 2 * len(data))


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


def test_arrays_are_not_copied_at_the_border(monkeypatch):
    """What the module gets is the caller's memory, for every dtype that it takes."""
    tables = gaussian_tables([0.5, 1.0, 2.0], 14)
    rng = np.random.default_rng(3)
    seen = []

    class Recorder:
        def __init__(self, module):
            self.module = module

        def __getattr__(self, name):
            return getattr(self.module, name)

        def rans_encode(self, symbols, indexes, *args, **kwargs):
            seen.append((symbols, indexes))
            return self.module.rans_encode(symbols, indexes, *args, **kwargs)

        def rans_decode(self, data, indexes, tables, symbols, **kwargs):
            seen.append((symbols, indexes))
            return self.module.rans_decode(data, indexes, tables, symbols, **kwargs)

    recorder = Recorder(_native.module())
    monkeypatch.setattr(_native, "module", lambda: recorder)
    for symbol_type in (np.int8, np.int16, np.int32):
        for index_type in (np.uint8, np.uint16, np.int32):
            symbols = rng.integers(-9, 9, (5, 6, 7)).astype(symbol_type)
            indexes = rng.integers(0, 3, (5, 6, 7)).astype(index_type)
            data = rans.encode(symbols, indexes, tables)
            out = np.empty_like(symbols)
            assert rans.decode(data, indexes, tables, out=out) is out
            np.testing.assert_array_equal(out, symbols)
            (encoded, rows), (decoded, same_rows) = seen
            for given_array, taken in (
                (symbols, encoded),
                (indexes, rows),
                (out, decoded),
                (indexes, same_rows),
            ):
                assert taken.ctypes.data == given_array.ctypes.data
            seen.clear()


def test_tensors_and_dlpack():
    torch = pytest.importorskip("torch")
    tables = gaussian_tables([0.5, 1.0, 2.0], 14)
    generator = torch.Generator().manual_seed(1)
    symbols = torch.randint(-9, 9, (4, 50), generator=generator, dtype=torch.int16)
    indexes = torch.randint(0, 3, (4, 50), generator=generator, dtype=torch.uint8)
    expected = rans.encode(symbols.numpy(), indexes.numpy(), tables)
    assert rans.encode(symbols, indexes, tables) == expected

    class OnlyDlpack:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **kwargs):
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    assert rans.encode(OnlyDlpack(symbols), OnlyDlpack(indexes), tables) == expected
    out = torch.empty(4, 50, dtype=torch.int32)
    assert rans.decode(expected, indexes, tables, out=out) is out
    assert torch.equal(out, symbols.int())
    on_no_cpu = torch.empty(4, 50, dtype=torch.int32, device="meta")
    with pytest.raises(OptionError, match="array on the CPU"):
        rans.encode(on_no_cpu, indexes, tables)


def test_decoded_dtypes():
    tables = gaussian_tables([0.5, 40.0], 14)
    symbols = np.array([[-128, 127, 0, 1, -1] * 9])
    indexes = np.ones_like(symbols)
    data = rans.encode(symbols, indexes, tables)
    for dtype in (np.int8, np.int16, np.int32, "i1"):
        decoded = rans.decode(data, indexes, tables, dtype=dtype)
        assert decoded.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(decoded, symbols)
    for dtype in (np.int64, np.uint8, np.float32, ">i4", "no", None):
        with pytest.raises(OptionError, match="dtype is"):
            rans.decode(data, indexes, tables, dtype=dtype)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("level", LEVELS)
def test_symbols_that_the_dtype_cannot_hold_are_refused(lanes, level):
    """From a bucket, from a row and as an escape, at every place of a group."""
    tables = tables_from_frequencies(
        [[64] * 1024, [30_000, 30_000, 5536], [30_000, 30_000, 5536]], [-500, 39_999, -40_001], 16
    )
    for value, index, dtype in (
        (128, 0, np.int8),
        (-129, 0, np.int8),
        (500, 0, np.int8),
        (10_000, 0, np.int8),
        (40_000, 1, np.int16),
        (-40_000, 2, np.int16),
        (10_000_000, 1, np.int16),
    ):
        for position in range(0, 140, 23):
            symbols = np.zeros(140, np.int32)
            indexes = np.zeros(140, np.uint8)
            symbols[position], indexes[position] = value, index
            data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=1, level=level)
            with pytest.raises(BitstreamError, match="does not fit"):
                coder._decode(data, indexes, tables, dtype=dtype, level=level)
            decoded, _ = coder._decode(data, indexes, tables, level=level)
            np.testing.assert_array_equal(decoded, symbols)


def test_bad_outputs():
    tables = gaussian_tables([1.0], 14)
    symbols = np.arange(-6, 6).reshape(3, 4).astype(np.int32)
    indexes = np.zeros((3, 4), np.uint8)
    data = rans.encode(symbols, indexes, tables)
    read_only = np.empty((3, 4), np.int32)
    read_only.flags.writeable = False
    for out, message in (
        (np.empty((3, 4), np.int64), "out has dtype int64"),
        (np.empty((3, 4), np.float32), "out has dtype float32"),
        (np.empty((4, 3), np.int32), "out has shape"),
        (np.empty(12, np.int32), "out has shape"),
        (np.empty((4, 3), np.int32).T, "not contiguous"),
        (read_only, "read-only"),
        (np.empty(49, np.int8)[1:].view(np.int32).reshape(3, 4), "not contiguous"),
        ([[0] * 4] * 3, "out has dtype int64"),
    ):
        with pytest.raises(OptionError, match=message):
            rans.decode(data, indexes, tables, out=out)


def test_streams_into_buffers():
    tables = gaussian_tables([1.0], 14)
    symbols = np.arange(-6, 6, dtype=np.int32)
    indexes = np.zeros(12, np.uint8)
    data = rans.encode(symbols, indexes, tables)
    for buffer in (bytearray(100), np.zeros(100, np.uint8), np.zeros((5, 5), np.int32)):
        part = rans.encode(symbols, indexes, tables, out=buffer)
        assert bytes(part) == data
        assert bytes(memoryview(buffer).cast("B")[: len(data)]) == data
        np.testing.assert_array_equal(rans.decode(part, indexes, tables), symbols)
    short = bytearray(len(data) - 1)
    with pytest.raises(OptionError, match=f"has {len(data) - 1} bytes"):
        rans.encode(symbols, indexes, tables, out=short)
    assert not any(short)
    assert rans.encode(symbols, indexes, tables, out=bytearray(len(data))) == data
    for bad, message in ((b"12345678901234567", "read-only"), ("text", "give bytes")):
        with pytest.raises(OptionError, match=message):
            rans.encode(symbols, indexes, tables, out=bad)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 1000, 2**17 + 1])
def test_no_stream_is_larger_than_the_bound(count):
    """Every symbol an escape as far away as possible, in every layout."""
    tables = ugly_tables(16)
    symbols = np.full(count, INT32_MIN, np.int32)
    indexes = np.full(count, 3, np.uint8)  # an escape of probability 2^-16
    for lanes, chunks in ((0, 0), (64, min(count, 2) if count else 0)):
        data = coder._encode(symbols, indexes, tables, lanes=lanes, chunks=chunks)
        assert len(data) <= rans.max_encoded_size(count)
    for bad in (-1, 1.5, True, None):
        with pytest.raises(OptionError, match="num_symbols is"):
            rans.max_encoded_size(bad)


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


@pytest.mark.parametrize("count", [*range(1, 40, 3), 100, 256, 700, 2000, 9000, 40_000, 200_000])
def test_what_lanes_and_states_cost(count):
    """At most 0.5 % and 8 bytes above one endless state, and 8 bytes for 256 symbols."""
    for scale in (0.12, 0.4, 1.0, 9.0):
        tables = gaussian_tables([scale], 12)
        symbols = np.rint(np.random.default_rng(count).normal(size=count) * scale).astype(np.int32)
        indexes = np.zeros(count, np.uint8)
        size = len(rans.encode(symbols, indexes, tables))
        ideal = tables.bits(symbols, indexes) / 8
        assert size <= 1.005 * ideal + 8
        if count <= 256:
            assert size <= ideal + 8


def test_every_forced_lane_costs_about_half_a_byte():
    tables = gaussian_tables([1.0], 14)
    symbols = np.rint(np.random.default_rng(1).normal(size=20_000)).astype(np.int32)
    indexes = np.zeros(20_000, np.uint8)
    one = len(coder._encode(symbols, indexes, tables, lanes=1, chunks=1))
    many = len(coder._encode(symbols, indexes, tables, lanes=32, chunks=1))
    assert many - one <= 31 * 0.5 + 3


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
        (b"\x07" + b"\xff" * 40, "first byte 7"),
        (b"\x10" + b"\xff" * 40, "first byte 16"),
        (b"\x08\xff\xff\xff\xff\x0f" + b"\xff" * 40, "number of chunks"),
        (b"\x08\x01" + b"\xff" * 40, "number of chunks"),
        (b"\x08\x82\x00" + b"\xff" * 40, "number of chunks"),  # not the shortest varint
        (b"\x08\x63" + b"\xff" * 40, "do not split into 99"),
        (b"\x08\x64\x01", "chunk lengths"),
        (b"\x08\x02\xff\xff\xff\xff\x0f", "within chunk 0"),
        (b"\x00\xff\xff", "lane states"),
        (b"\x00\x00\x00\x01\x00", "bits after the lane states"),
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


@pytest.mark.parametrize(("lanes", "chunks"), [(3, 1), (128, 1), (1, 11), (1, 9)])
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
