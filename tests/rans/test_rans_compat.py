"""The CompressAI stream against its plain Python twin, its golden, CompressAI, and damaged data."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import compat_reference as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rans_cases import INT32_MAX, INT32_MIN, tables_from_frequencies, ugly_symbols, ugly_tables

from icmh_rt import rans
from icmh_rt.errors import BitstreamError, OptionError
from icmh_rt.rans import compat

GOLDEN = Path(__file__).parents[1] / "golden" / "rans_compressai.npz"
EMPTY_STREAM = bytes.fromhex("0000008000000000")
FARTHEST = 2**30  # from the values of a row
FARTHEST_IN_COMPRESSAI = 2**27


def lists(tables):
    """(cdfs, lengths, offsets) of rans.Tables as CompressAI wants them."""
    return tables.cdfs.tolist(), tables.lengths.tolist(), tables.offsets.tolist()


def near(symbols, indexes, tables, farthest):
    """The symbols moved to at most `farthest` away from their rows."""
    first = tables.offsets.astype(np.int64)[indexes]
    last = first + tables.lengths[indexes] - 3
    low = np.maximum(first - farthest, INT32_MIN)
    return np.clip(symbols, low, np.minimum(last + farthest, INT32_MAX)).astype(np.int32)


def without_row(tables, row):
    lengths = np.delete(tables.lengths, row)
    cdfs = np.delete(tables.cdfs, row, axis=0)[:, : lengths.max()]
    return rans.Tables.from_cdfs(cdfs, lengths, np.delete(tables.offsets, row))


def short_ugly_tables():
    """Without the row of 65536 intervals, which makes the twin and CompressAI slow."""
    return without_row(ugly_tables(16), 5)


def ugly_plane(count, seed, escape_rate=0.05, farthest=FARTHEST, tables=None):
    tables = tables or ugly_tables(16)
    symbols, indexes = ugly_symbols(tables, count, np.random.default_rng(seed), escape_rate)
    return near(symbols, indexes, tables, farthest), indexes, tables


@pytest.fixture(scope="module")
def small():
    """60 ugly symbols, their indexes, their tables, and their stream."""
    symbols, indexes, tables = ugly_plane(60, 0, escape_rate=0.1, tables=short_ugly_tables())
    return symbols, indexes, tables, compat.encode(symbols, indexes, tables)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


# Bytes


@pytest.mark.parametrize("form", ["arrays", "lists", "tables", "rans tables"])
def test_golden(golden, form):
    arrays = golden["cdfs"], golden["lengths"], golden["offsets"]
    symbols, indexes = golden["symbols"], golden["indexes"]
    tables = {
        "arrays": arrays,
        "lists": tuple(array.tolist() for array in arrays),
        "tables": (compat.Tables(*arrays),),
        "rans tables": (rans.Tables.from_cdfs(*arrays),),
    }[form]
    stream = golden["stream"].tobytes()
    assert compat.encode(symbols, indexes, *tables) == stream
    decoded = compat.decode(stream, indexes, *tables)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


def test_twin_makes_the_golden(golden):
    tables = [golden[name].tolist() for name in ("cdfs", "lengths", "offsets")]
    symbols, indexes = golden["symbols"].tolist(), golden["indexes"].tolist()
    stream = golden["stream"].tobytes()
    assert reference.encode([(symbols, indexes, *tables)]) == stream
    assert reference.decode(stream, [(indexes, *tables)]) == ([symbols], True)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 511, 512, 513, 1025])
@pytest.mark.parametrize("escape_rate", [0.0, 0.05, 1.0])
def test_bytes_equal_the_twin(count, escape_rate):
    symbols, indexes, tables = ugly_plane(count, count, escape_rate)
    data = compat.encode(symbols, indexes, tables)
    plane = symbols.tolist(), indexes.tolist(), *lists(tables)
    assert data == reference.encode([plane])
    assert reference.decode(data, [plane[1:]]) == ([symbols.tolist()], True)
    for form in ((tables,), lists(tables)):  # with and, where the plane is small, without buckets
        decoder = compat.Decoder(data)
        np.testing.assert_array_equal(decoder.decode_stream(indexes, *form), symbols)
        assert decoder.at_end


def test_every_frequency():
    """Each frequency 1 to 65536 is divided by exactly, at small and at large states."""
    indexes = np.arange(2**16)
    cdfs = np.zeros((2**16, 4), np.int32)
    cdfs[:, 2] = indexes + 1  # the value 1 has frequency index + 1; 0 has no slots
    cdfs[:, 3] = 2**16
    lengths, offsets = [4] * 2**16, [0] * 2**16
    rng = np.random.default_rng(3)
    for _ in range(2):
        order = rng.permutation(indexes)
        symbols = np.ones(2**16, np.int8)
        data = compat.encode(symbols, order, cdfs, lengths, offsets)
        plane = symbols.tolist(), order.tolist(), cdfs.tolist(), lengths, offsets
        assert data == reference.encode([plane])
        np.testing.assert_array_equal(
            compat.decode(data, order, cdfs, lengths, offsets), symbols.astype(np.int32)
        )


def tables_of_anything(data):
    """Drawn (cdfs, lengths, offsets): ragged lists, intervals without slots, padding."""
    cdfs, offsets = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        inner = data.draw(st.lists(st.integers(0, 2**16), max_size=30))
        cdfs.append([0, *sorted(inner), 2**16])
        offsets.append(data.draw(st.integers(INT32_MIN, INT32_MAX)))
    lengths = [len(row) for row in cdfs]
    padding = data.draw(st.lists(st.integers(INT32_MIN, INT32_MAX), max_size=3))
    return [row + padding for row in cdfs], lengths, offsets


@given(st.data())
def test_round_trip_of_anything(data):
    planes = []
    encoder = compat.Encoder()
    for _ in range(data.draw(st.integers(0, 3))):
        cdfs, lengths, offsets = tables_of_anything(data)
        pairs = []
        for row in data.draw(st.lists(st.integers(0, len(cdfs) - 1), max_size=60)):
            value = data.draw(
                st.one_of(
                    st.integers(-3, lengths[row] + 3),
                    st.integers(-(2**30) - 1, 2**30 + lengths[row]),
                )
            )
            pairs.append((min(max(offsets[row] + value, INT32_MIN), INT32_MAX), row))
        symbols = [symbol for symbol, _ in pairs]
        indexes = [row for _, row in pairs]
        plane = symbols, indexes, cdfs, lengths, offsets
        try:
            reference.encode([plane])
        except reference.Refused:
            with pytest.raises(OptionError, match=r"no slots|away from row"):
                encoder.encode_with_indexes(*plane)
        else:
            encoder.encode_with_indexes(*plane)
            planes.append(plane)
    stream = encoder.flush()
    assert stream == reference.encode(planes)
    decoder = compat.Decoder(stream)
    for symbols, indexes, *tables in planes:
        prepared = compat.Tables(*tables)
        assert decoder.decode_stream(indexes, prepared).tolist() == symbols
    assert decoder.at_end


def test_several_planes(golden):
    tables = golden["cdfs"], golden["lengths"], golden["offsets"]
    ugly, ugly_indexes, other = ugly_plane(700, 9)
    planes = [
        (golden["symbols"][:1000], golden["indexes"][:1000], *tables),
        (ugly, ugly_indexes, other),
        ([], [], other),
        (golden["symbols"][1000:], golden["indexes"][1000:], *tables),
    ]
    encoder = compat.Encoder()
    for plane in planes:
        assert encoder.encode_with_indexes(*plane) is None
    stream = encoder.flush()
    as_lists = [
        (golden["symbols"][:1000].tolist(), golden["indexes"][:1000].tolist()),
        (ugly.tolist(), ugly_indexes.tolist()),
        (golden["symbols"][1000:].tolist(), golden["indexes"][1000:].tolist()),
    ]
    table_lists = [[array.tolist() for array in tables], lists(other)]
    assert stream == reference.encode(
        [(*as_lists[i], *table_lists[i % 2]) for i in range(len(as_lists))]
    )
    decoder = compat.Decoder(bytearray(stream))
    for symbols, indexes, *own_tables in planes:
        assert not decoder.at_end
        np.testing.assert_array_equal(decoder.decode_stream(indexes, *own_tables), symbols)
    assert decoder.at_end
    # Flushed: the next stream begins.
    assert encoder.flush() == EMPTY_STREAM
    encoder.encode_with_indexes(*planes[0])
    assert encoder.flush() == compat.encode(*planes[0])


def test_one_call_for_each_symbol(small):
    symbols, indexes, tables, stream = small
    encoder = compat.Encoder()
    for symbol, index in zip(symbols, indexes, strict=True):
        encoder.encode_with_indexes(symbol, index, tables)  # of no dimension
    assert encoder.flush() == stream
    decoder = compat.Decoder(stream)
    for symbol, index in zip(symbols, indexes, strict=True):
        value = decoder.decode_stream(index, tables)
        assert value.shape == ()
        assert value == symbol
    assert decoder.at_end


# Where CompressAI is not defined


def test_no_symbols(small):
    tables = small[2]
    assert compat.encode([], [], tables) == EMPTY_STREAM
    assert compat.decode(EMPTY_STREAM, np.zeros((0, 4), np.uint8), tables).shape == (0, 4)
    assert compat.Decoder(EMPTY_STREAM).at_end


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("offset", [0, 7, 2**30, -(2**30)])
def test_farthest_symbols(count, offset):
    cdf = [[*range(count + 1), 2**16]]
    tables = cdf, [count + 2], [offset]
    first, last = offset - FARTHEST, offset + count - 1 + FARTHEST
    symbols = [max(first, INT32_MIN), min(last, INT32_MAX)] * 2
    data = compat.encode(symbols, [0] * 4, *tables)
    assert data == reference.encode([(symbols, [0] * 4, *tables)])
    assert compat.decode(data, [0] * 4, *tables).tolist() == symbols
    for symbol in (first - 1, last + 1, INT32_MIN, INT32_MAX):
        if first <= symbol <= last or not INT32_MIN <= symbol <= INT32_MAX:
            continue
        with pytest.raises(OptionError, match=f"symbol {symbol} at position 2 is more than 2"):
            compat.encode([offset, offset, symbol], [0] * 3, *tables)


def test_an_interval_of_all_slots_costs_nothing():
    # Escapes of the value 0: only their number of nibbles, 0, is written.
    data = compat.encode([0] * 100, [0] * 100, [[0, 2**16]], [2], [0])
    assert data == reference.encode([([0] * 100, [0] * 100, [[0, 2**16]], [2], [0])])
    assert len(data) == 8 + 48
    tables = [[0, 2**16, 2**16]], [3], [-5]
    data = compat.encode([-5] * 100, [0] * 100, *tables)
    assert data == EMPTY_STREAM
    assert compat.decode(data, [0] * 100, *tables).tolist() == [-5] * 100


def test_intervals_without_slots():
    tables = [[0, 0, 9, 9, 9, 2**16, 2**16]], [7], [0]
    symbols = [1, 4, 4, 1]
    data = compat.encode(symbols, [0] * 4, *tables)
    assert data == reference.encode([(symbols, [0] * 4, *tables)])
    assert compat.decode(data, [0] * 4, *tables).tolist() == symbols
    for symbol, what in (
        (0, "an interval"),
        (2, "an interval"),
        (3, "an interval"),
        (5, "the esc"),
    ):
        with pytest.raises(OptionError, match=f"symbol {symbol} at position 1 falls on {what}"):
            compat.encode([1, symbol], [0, 0], *tables)


def test_more_intervals_than_slots():
    cdf = np.concatenate([np.zeros(70_000), np.arange(1, 2**16 + 1)]).astype(np.int32)
    tables = compat.Tables(cdf[None], [cdf.size], [-70_000])
    symbols = np.random.default_rng(0).integers(-1, 2**16 - 2, 500)
    data = compat.encode(symbols, np.zeros(500, int), tables)
    np.testing.assert_array_equal(compat.decode(data, np.zeros(500, int), tables), symbols)


def test_values_beyond_int32_are_refused():
    """A row whose values leave int32: nobody can encode these, altered data can name them."""
    tables = [[0, 2**15, 2**16 - 1, 2**16]], [4], [INT32_MAX]
    inside = compat.encode([INT32_MAX], [0], *tables)
    assert compat.decode(inside, [0], *tables).tolist() == [INT32_MAX]
    for slot in (2**15, 2**16 - 1):
        data = (2**62 + slot).to_bytes(8, "little")
        with pytest.raises(BitstreamError, match="the value at symbol 0 is out of range"):
            compat.decode(data, [0], *tables)


# Arrays


def test_every_dtype_and_shape():
    tables = tables_from_frequencies([[2**14] * 4, [2**15, 2**15 - 1, 1]], [-2, 0], 16)
    rng = np.random.default_rng(3)
    indexes = rng.integers(0, 2, (5, 6, 7))
    signed = rng.integers(-9, 9, (5, 6, 7))
    for symbols, symbol_types in (
        (signed, (np.int8, np.int16, np.int32, np.int64, ">i4", ">i2")),
        (np.abs(signed), (np.uint8, np.uint16, np.uint32, np.uint64, ">u2")),
    ):
        expected = compat.encode(symbols.astype(np.int32), indexes.astype(np.int32), tables)
        for symbol_type in symbol_types:
            for index_type in (np.uint8, np.uint16, np.int32, np.int8, np.int64, np.uint64, ">u2"):
                own = indexes.astype(index_type)
                assert compat.encode(symbols.astype(symbol_type), own, tables) == expected
                decoded = compat.decode(expected, own, tables)
                assert decoded.dtype == np.int32
                np.testing.assert_array_equal(decoded, symbols)
    turned = compat.encode(signed.T, indexes.T, tables)  # not contiguous: C order of the view
    np.testing.assert_array_equal(compat.decode(turned, indexes.T, tables), signed.T)
    every_other = compat.encode(signed[::-2], indexes[::-2], tables)
    assert every_other == compat.encode(signed[::-2].tolist(), indexes[::-2].tolist(), tables)


def test_misaligned_arrays(small):
    symbols, indexes, tables, stream = small
    shifted = np.frombuffer(b"?" + symbols.tobytes(), np.int32, offset=1)
    rows = np.frombuffer(b"?" + indexes.astype(np.uint16).tobytes(), np.uint16, offset=1)
    assert not shifted.flags.aligned
    assert compat.encode(shifted, rows, tables) == stream
    np.testing.assert_array_equal(compat.decode(stream, rows, tables), symbols)


def test_data_of_every_kind(small):
    symbols, indexes, tables, stream = small
    for kind in (bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(compat.decode(kind(stream), indexes, tables), symbols)
    changing = bytearray(stream)
    decoder = compat.Decoder(changing)
    changing[:] = bytes(len(changing))  # the decoder has its own copy
    np.testing.assert_array_equal(decoder.decode_stream(indexes, tables), symbols)


def test_tensors(small, golden):
    torch = pytest.importorskip("torch")
    symbols, indexes, tables, stream = small
    rows = torch.from_numpy(indexes).reshape(3, 20)
    values = torch.from_numpy(symbols).reshape(3, 20)
    own = [torch.tensor(table) for table in lists(tables)]
    assert compat.encode(values, rows, *own) == stream
    assert compat.encode(values.long(), rows.long(), *own) == stream
    np.testing.assert_array_equal(compat.decode(stream, rows, *own), symbols.reshape(3, 20))
    with pytest.raises(OptionError, match="symbols must be integers, not float32"):
        compat.encode(values.float(), rows, *own)
    with pytest.raises(OptionError, match="symbols is a Tensor that numpy cannot take"):
        compat.encode(values.float().requires_grad_(), rows, *own)


def test_rows_of_any_length():
    ragged = [[0, 9, 2**16], [0, 2**16, 1, 2, 3], np.array([0, 1, 2, 3, 2**16], np.uint32)]
    lengths, offsets = [3, 2, 5], [0, 1, 2]
    square = np.zeros((3, 5), np.int64)
    for i, row in enumerate(ragged):
        square[i, : len(row)] = row
    symbols, indexes = [0, 5, 1, 0, 2, 4, 99], [0, 0, 1, 1, 2, 2, 2]
    expected = compat.encode(symbols, indexes, square, lengths, offsets)
    assert expected == compat.encode(symbols, indexes, ragged, lengths, offsets)
    assert expected == compat.encode(symbols, indexes, tuple(ragged), [lengths], np.array(offsets))
    assert compat.decode(expected, indexes, ragged, lengths, offsets).tolist() == symbols


def test_prepared_tables(small):
    symbols, indexes, tables, stream = small
    arrays = [tables.cdfs.copy(), tables.lengths.copy(), tables.offsets.copy()]
    prepared = compat.Tables(*arrays)
    for array in arrays:
        array[...] = 1  # the tables have their own copy
    for own in (
        prepared,
        pickle.loads(pickle.dumps(prepared)),
        compat.Tables(tables),
        copy.deepcopy(compat.Tables(tables)),
        pickle.loads(pickle.dumps(compat.Tables(tables))),
    ):
        assert own.num_tables == tables.num_tables
        assert compat.encode(symbols, indexes, own) == stream
    with pytest.raises(AttributeError, match="immutable"):
        prepared.num_tables = 3
    assert repr(prepared) == "Tables(rows=9)"


def test_rans_tables_are_prepared_once(small, monkeypatch):
    symbols, indexes, tables, stream = small
    built = []
    build = compat._build
    monkeypatch.setattr(compat, "_recent", compat._RecentTables())
    monkeypatch.setattr(compat, "_build", lambda *a: built.append(1) or build(*a))
    for _ in range(3):
        assert compat.encode(symbols, indexes, tables) == stream
        compat.decode(stream, indexes, tables)
    assert len(built) == 1
    others = [rans.Tables.from_cdfs(*lists(tables)) for _ in range(20)]
    for other in others:
        compat.encode(symbols, indexes, other)
    assert len(built) == 21
    assert len(compat._recent._entries) == compat._RecentTables.CAPACITY
    compat.encode(symbols, indexes, others[-1])
    assert len(built) == 21
    compat.encode(symbols, indexes, tables)  # forgotten by now
    assert len(built) == 22


# Damaged data


def decode_or_error(data, indexes, *tables):
    try:
        decoder = compat.Decoder(data)
        symbols = decoder.decode_stream(indexes, *tables)
    except BitstreamError as error:
        assert "\n" not in str(error)
        return None
    return [symbols.tolist()], decoder.at_end


def twin_or_error(data, indexes, tables):
    try:
        return reference.decode(data, [(indexes.tolist(), *lists(tables))])
    except reference.Corrupt:
        return None


def test_every_truncation(small):
    _, indexes, tables, stream = small
    for size in range(len(stream)):
        decoded = decode_or_error(stream[:size], indexes, tables)
        assert decoded is None
        assert twin_or_error(stream[:size], indexes, tables) is None
    with pytest.raises(BitstreamError, match="it has 7 bytes"):
        compat.decode(stream[:7], indexes, tables)
    with pytest.raises(BitstreamError, match="it ends at symbol"):
        compat.decode(stream[:-1], indexes, tables)


def test_bytes_after_the_end_are_accepted(small):
    symbols, indexes, tables, stream = small
    for extra in (b"\0", b"\xff" * 4, b"\1" * 99):
        decoder = compat.Decoder(stream + extra)
        np.testing.assert_array_equal(decoder.decode_stream(indexes, tables), symbols)
        assert not decoder.at_end
    # So are fewer indexes than symbols.
    assert decode_or_error(stream, indexes[:7], tables) == ([symbols[:7].tolist()], False)


def test_every_altered_bit(small):
    """An altered stream is an error or other symbols, exactly as for the twin."""
    _, indexes, tables, stream = small
    prepared = compat.Tables(tables)
    arrays = lists(tables)
    refused = 0
    for position in range(len(stream) * 8):
        bad = bytearray(stream)
        bad[position // 8] ^= 1 << position % 8
        decoded = decode_or_error(bad, indexes, prepared)
        assert decoded == twin_or_error(bad, indexes, tables)
        if position % 8 == 0:
            assert decoded == decode_or_error(bad, indexes, *arrays)
        refused += decoded is None
    assert 0 < refused < len(stream) * 8


@given(st.binary(min_size=8, max_size=120), st.integers(0, 60), st.booleans())
def test_random_bytes_never_surprise(data, count, many_escapes):
    # Make the state one that is not refused at once.
    data = data[:7] + bytes([data[7] & 0x7F]) + data[8:]
    tables = ugly_tables(16)
    indexes = np.arange(count) % tables.num_tables
    if many_escapes:
        indexes[::2] = 0  # the row of escapes alone
    assert decode_or_error(data, indexes, tables) == twin_or_error(data, indexes, tables)


@pytest.mark.parametrize("state", [0, 2**31 - 1, 2**63, 2**64 - 1])
def test_states_that_no_encoder_leaves(state, small):
    for indexes in ([], [0]):
        with pytest.raises(BitstreamError, match=f"its state {state} is not in"):
            compat.decode(state.to_bytes(8, "little"), indexes, small[2])


@pytest.mark.parametrize("nibbles", [9, 14, 15])
def test_long_escapes(nibbles):
    """9 nibbles and more, or the endless 15, 15, 15, ... that CompressAI's decoder follows."""
    data = bytes([nibbles * 17] * 7 + [0x7F]) + bytes([nibbles * 17] * 1000)
    with pytest.raises(BitstreamError, match="the value at symbol 0 has more than 8 nibbles"):
        compat.decode(data, [0], [[0, 2**16]], [2], [0])


def test_escapes_with_leading_zeros():
    """More nibbles than needed: no encoder writes them, CompressAI's decoder reads them."""
    tables = [[0, 2**16]], [2], [0]
    data = reference.push([(0, 2**16), 8, 5, 0, 0, 0, 0, 0, 0, 0])
    assert compat.decode(data, [0], *tables).tolist() == [-3]
    assert reference.decode(data, [([0], *tables)]) == ([[-3]], True)
    data = reference.push([(0, 2**16), 8, 15, 15, 15, 15, 15, 15, 15, 7])
    assert compat.decode(data, [0], *tables).tolist() == [-(2**30)]
    data = reference.push([(0, 2**16), 8, 0, 0, 0, 0, 0, 0, 0, 8])
    with pytest.raises(BitstreamError, match="the value at symbol 0 is out of range"):
        compat.decode(data, [0], *tables)


def test_after_an_error_nothing_has_happened(small):
    symbols, indexes, tables, stream = small
    encoder = compat.Encoder()
    encoder.encode_with_indexes(symbols, indexes, tables)
    many = np.zeros(2000, np.int64)
    many[1500] = 99
    with pytest.raises(OptionError, match="index 99 at position 1500"):
        encoder.encode_with_indexes(np.zeros(2000, np.int8), many, tables)
    assert encoder.flush() == stream
    decoder = compat.Decoder(stream)
    with pytest.raises(OptionError, match="index 99 at position 1500"):
        decoder.decode_stream(np.where(many == 99, 99, 6), tables)
    with pytest.raises(BitstreamError, match="it ends"):
        decoder.decode_stream(np.tile(indexes, 9), tables)
    np.testing.assert_array_equal(decoder.decode_stream(indexes, tables), symbols)


# Arguments

GOOD = [[0, 2**15, 2**16]], [3], [0]


@pytest.mark.parametrize(
    ("symbols", "indexes", "message"),
    [
        ([1, 2], [0], "shape"),
        ([[1]], [0], "shape"),
        ([1.0], [0], "symbols must be integers, not float64"),
        ([True], [0], "symbols must be integers, not bool"),
        (["a"], [0], "symbols must be integers, not <U1"),
        ([[1, 2], [3]], [0], "symbols"),
        ([1], [0.0], "indexes must be integers, not float64"),
        ([1], None, "indexes must be integers, not object"),
        ([1, 1], [0, -1], "index -1 at position 1 is not the number of a table row, 0 to 0"),
        ([1], [1], "index 1 at position 0"),
        ([1], np.array([255], np.uint8), "index 255 at position 0"),
        ([1], np.array([65535], np.uint16), "index 65535 at position 0"),
        ([1], [2**31 - 1], "index 2147483647 at position 0"),
        ([1], [2**40], "indexes holds 1099511627776"),
        ([2**31], [0], "symbols holds 2147483648"),
        ([-(2**31) - 1], [0], "symbols holds -2147483649"),
        (np.array([2**63], np.uint64), [0], "symbols holds 9223372036854775808"),
    ],
)
def test_bad_planes(symbols, indexes, message):
    with pytest.raises(OptionError, match=message):
        compat.encode(symbols, indexes, *GOOD)
    with pytest.raises(OptionError, match=message):
        compat.Encoder().encode_with_indexes(symbols, indexes, *GOOD)
    if message.startswith("index"):
        with pytest.raises(OptionError, match=message):
            compat.decode(b"\xff" * 7 + b"\x7f" * 50, indexes, *GOOD)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (([[0, 2**16]], [1], [0]), r"cdf_lengths\[0\] is 1; give 2 to 2"),
        (([[0, 2**16]], [3], [0]), r"cdf_lengths\[0\] is 3"),
        (([[0, 2**16], [0, 2**16, 7]], [2, 4], [0, 0]), r"cdf_lengths\[1\] is 4; give 2 to 3"),
        (([[0, 2**16]], [-1], [0]), r"cdf_lengths\[0\] is -1"),
        (([[1, 2**16]], [2], [0]), "row 0 runs from 1 to 65536"),
        (([[-3, 2**16]], [2], [0]), "row 0 runs from -3 to 65536"),
        (([[0, 2**16], [0, 2**16 - 1]], [2, 2], [0, 0]), "row 1 runs from 0 to 65535"),
        (([[0, 2**16, 5]], [3], [0]), "row 0 runs from 0 to 5"),
        (([[0, 9, 8, 2**16]], [4], [0]), "row 0 falls at entry 2"),
        (([[0, -9, 8, 2**16]], [4], [0]), "row 0 falls at entry 1"),
        (([[0, 2**17, 2**16]], [3], [0]), "row 0 falls at entry 2"),
        (([[0, 2**32, 2**16]], [3], [0]), r"cdfs\[0\] holds 4294967296"),
        (([[0, 2**16]], [2], [2**31]), "offsets holds 2147483648"),
        (([[0, 2**16]], [2, 2], [0]), "there are 1 cdfs, 2 cdf_lengths and 1 offsets"),
        (([[0, 2**16]], [2], [0, 0]), "there are 1 cdfs, 1 cdf_lengths and 2 offsets"),
        (([0, 2**16], [2], [0]), r"cdfs\[0\] has shape \(\)"),
        ((np.array([0, 2**16]), [2], [0]), r"cdfs has shape \(2,\)"),
        (([[0.0, 65536.0]], [2], [0]), r"cdfs\[0\] must be integers, not float64"),
        (([[0, 2**16]], [2.0], [0]), "cdf_lengths must be integers, not float64"),
        (([[0, 2**16]],), "cdf_lengths or offsets are missing"),
        (([[0, 2**16]], [2]), "cdf_lengths or offsets are missing"),
        ((np.zeros((0, 2), int), [], []), "there are 0 rows"),
        (([], [], []), "there are 0 rows"),
        ((ugly_tables(16), None, [0]), "part of the Tables"),
        ((ugly_tables(14),), "a precision of 14 bits"),
        ((None, [2], [0]), "cdfs must be integers, not object"),
    ],
)
def test_bad_tables(tables, message):
    for call in (
        lambda: compat.encode([0], [0], *tables),
        lambda: compat.decode(b"\x7f" * 50, [0], *tables),
        lambda: compat.Encoder().encode_with_indexes([0], [0], *tables),
        lambda: compat.Decoder(b"\x7f" * 50).decode_stream([0], *tables),
    ):
        with pytest.raises(OptionError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_prepared_tables_come_alone():
    tables = compat.Tables(*GOOD)
    with pytest.raises(OptionError, match="part of the Tables; leave them out"):
        compat.encode([0], [0], tables, [2], [0])


def test_bad_data():
    with pytest.raises(OptionError, match="data is a str; give bytes"):
        compat.decode("text", [0], *GOOD)
    with pytest.raises(OptionError, match="contiguous"):
        compat.Decoder(memoryview(b"abcdefgh" * 2)[::2])


def test_arrays_that_are_no_tables_do_not_cross_the_border():
    """The module itself refuses what the Python face would not give it."""
    module = compat._native.module()
    cdfs, one = np.array([0, 2**16], np.int32), np.array([2], np.int32)
    for starts, lengths in (
        ([1], [2]),
        ([-1], [2]),
        ([3], [2]),
        ([0], [3]),
        ([2**62], [2**31 - 1]),
    ):
        with pytest.raises(ValueError, match="row 0 has length"):
            module.CompatTables(cdfs, np.array(starts), np.array(lengths, np.int32), one)
    with pytest.raises(ValueError, match="number of rows"):
        module.CompatTables(cdfs, np.array([0, 0]), one, one)
    tables = module.CompatTables(cdfs, np.array([0]), one, one)
    with pytest.raises(ValueError, match="2 symbols but 1 indexes"):
        module.compat_encode(np.zeros(2, np.int8), np.zeros(1, np.uint8), tables)
    with pytest.raises(TypeError, match="symbols must be"):
        module.compat_encode(np.zeros(1, np.int64), np.zeros(1, np.uint8), tables)
    with pytest.raises(TypeError, match="indexes must be"):
        module.CompatDecoder(EMPTY_STREAM).decode(np.zeros(4, np.uint8)[::2], tables)


# Threads


def run_in_threads(work, count=4):
    """Runs work(i) in threads; raises what one of them raised."""
    failures = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_threads_share_tables(small):
    symbols, indexes, tables, stream = small
    prepared = compat.Tables(tables)

    def work(i):
        for _ in range(50):
            own = prepared if i % 2 else tables
            assert compat.encode(symbols, indexes, own) == stream
            np.testing.assert_array_equal(compat.decode(stream, indexes, own), symbols)

    run_in_threads(work)


def test_threads_share_coders():
    """Each call is one step: no plane is lost or mixed with another one."""
    tables = tables_from_frequencies([[2**12] * 16], [0], 16)
    encoder = compat.Encoder()
    zeros = np.zeros(5000, np.uint8)

    def encode(i):
        for _ in range(10):
            encoder.encode_with_indexes(np.full(5000, i, np.int8), zeros, tables)

    run_in_threads(encode)
    stream = encoder.flush()
    decoder = compat.Decoder(stream)
    planes = []

    def decode(_):
        for _ in range(10):
            planes.append(decoder.decode_stream(zeros, tables))

    run_in_threads(decode)
    assert decoder.at_end
    values = [np.unique(plane).tolist() for plane in planes]
    assert sorted(values) == sorted([i] for i in range(4) for _ in range(10))


# Live against CompressAI


@pytest.fixture(scope="module")
def ans():
    return pytest.importorskip("compressai.ans")


@given(st.data())
def test_equals_compressai(ans, data):
    """Streams and values, one plane and several, wherever CompressAI is defined."""
    theirs, ours = ans.BufferedRansEncoder(), compat.Encoder()
    planes = []
    for seed in data.draw(st.lists(st.integers(0, 2**32), min_size=1, max_size=3)):
        rng = np.random.default_rng(seed)
        # Without the row of escapes alone, of frequency 2**16: CompressAI divides by zero.
        tables = without_row(short_ugly_tables(), 0)
        count = data.draw(st.integers(4, 300))  # for few symbols CompressAI writes out of bounds
        symbols, indexes = ugly_symbols(
            tables, count, rng, data.draw(st.sampled_from([0.0, 0.2, 1]))
        )
        symbols = near(symbols, indexes, tables, FARTHEST_IN_COMPRESSAI)
        plane = symbols.tolist(), indexes.tolist(), *lists(tables)
        expected = ans.RansEncoder().encode_with_indexes(*plane)
        assert compat.encode(symbols, indexes, tables) == expected
        decoded = ans.RansDecoder().decode_with_indexes(expected, *plane[1:])
        assert compat.decode(expected, indexes, tables).tolist() == decoded == plane[0]
        theirs.encode_with_indexes(*plane)
        ours.encode_with_indexes(*plane)
        planes.append((symbols, indexes, tables))
    stream = theirs.flush()
    assert ours.flush() == stream
    their_decoder, decoder = ans.RansDecoder(), compat.Decoder(stream)
    their_decoder.set_stream(stream)
    for symbols, indexes, tables in planes:
        expected = their_decoder.decode_stream(indexes.tolist(), *lists(tables))
        assert decoder.decode_stream(indexes, tables).tolist() == expected == symbols.tolist()


@given(st.data())
def test_altered_streams_decode_as_in_compressai(ans, data):
    """What both take decodes to the same wrong symbols."""
    seed = data.draw(st.integers(0, 2**32))
    symbols, indexes, tables = ugly_plane(
        100, seed, 0.2, FARTHEST_IN_COMPRESSAI, short_ugly_tables()
    )
    stream = bytearray(compat.encode(symbols, indexes, tables))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    stream += bytes(data.draw(st.binary(min_size=400, max_size=400)))
    expected = decode_or_error(bytes(stream), indexes, tables)
    if expected is not None:  # else CompressAI may read out of bounds
        theirs = ans.RansDecoder().decode_with_indexes(
            bytes(stream), indexes.tolist(), *lists(tables)
        )
        assert expected[0] == [theirs]


def test_compressai_reads_what_only_we_write(ans):
    """Its encoder hangs, divides by zero or writes out of bounds; its decoder is defined."""
    for symbols, tables in (
        ([], GOOD),
        ([1], GOOD),
        ([0, 2**30, -(2**30), 2**27 + 1, -(2**27) - 1], GOOD),
        ([5, -7, 0], ([[0, 2**16]], [2], [0])),
        ([0, 0, 0], ([[0, 2**16, 2**16]], [3], [0])),
    ):
        indexes = [0] * len(symbols)
        data = compat.encode(symbols, indexes, *tables)
        assert ans.RansDecoder().decode_with_indexes(data, indexes, *tables) == symbols


def test_entropy_models_of_compressai():
    """The strings of whole entropy models, and what they read of ours."""
    entropy_models = pytest.importorskip("compressai.entropy_models")
    import torch

    torch.manual_seed(0)
    gaussian = entropy_models.GaussianConditional([0.2, 1.0, 4.0, 30.0])
    gaussian.update()
    bottleneck = entropy_models.EntropyBottleneck(6)
    bottleneck.update()
    values = (torch.randn(1, 6, 8, 10) * 9).round()
    rows = torch.randint(0, 4, values.shape, dtype=torch.int32)
    channels = torch.arange(6, dtype=torch.int32)[None, :, None, None].expand(values.shape)
    for model, indexes, theirs in (
        (gaussian, rows, gaussian.compress(values, rows)[0]),
        (bottleneck, channels, bottleneck.compress(values)[0]),
    ):
        medians = model._get_medians().reshape(1, -1, 1, 1) if model is bottleneck else 0
        symbols = (values - medians).round().int().detach()
        tables = compat.Tables(model._quantized_cdf, model._cdf_length, model._offset)
        assert compat.encode(symbols, indexes, tables) == theirs
        np.testing.assert_array_equal(compat.decode(theirs, indexes, tables), symbols)
