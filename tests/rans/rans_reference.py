"""The rANS stream of docs/rans.md in plain Python: slow, and following the text line by line.

The tests hold the C++ coder to these functions byte for byte. Nothing is shared with icmh_rt.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise

LOW = 2**16  # the smallest state


class Corrupt(Exception):
    """The data is not a stream."""


class Row:
    """One table row: the frequencies of its intervals, the last of which is the escape."""

    def __init__(self, frequencies, offset):
        self.frequencies = [int(f) for f in frequencies]
        self.starts = [sum_before - f for f, sum_before in self._with_sums()]
        self.offset = int(offset)
        self.count = len(self.frequencies) - 1  # values that the row has

    def _with_sums(self):
        return zip(self.frequencies, accumulate(self.frequencies), strict=True)

    def interval(self, symbol):
        above = symbol - self.offset
        return above if 0 <= above < self.count else self.count

    def find(self, slot):
        """The interval of a slot and the slot's place in it."""
        interval = bisect_right(self.starts, slot) - 1
        return interval, slot - self.starts[interval]


def rows_of(tables):
    """Rows of an icmh_rt.rans.Tables."""
    return [
        Row([b - a for a, b in pairwise(cdf[:n])], offset)
        for cdf, n, offset in zip(
            tables.cdfs.tolist(), tables.lengths.tolist(), tables.offsets.tolist(), strict=True
        )
    ]


def varint(value):
    out = []
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def take_varint(data):
    value = 0
    for i in range(5):
        if i >= len(data):
            raise Corrupt
        value += data[i] % 128 * 128**i
        if data[i] < 128:
            if i > 0 and data[i] == 0:
                raise Corrupt
            return value, data[i + 1 :]
    raise Corrupt


def escape_bits(symbol, row):
    """The code of a value outside its row, as a string of 0 and 1."""
    below = symbol < row.offset
    distance = row.offset - 1 - symbol if below else symbol - row.offset - row.count
    binary = bin(distance + 1)[2:]
    return "0" * (len(binary) - 1) + binary + ("1" if below else "0")


def push(state, symbol, row, precision, words):
    """Code one symbol into a state; a word that leaves it goes to the end of `words`."""
    interval = row.interval(symbol)
    frequency, start = row.frequencies[interval], row.starts[interval]
    if state >= frequency * 2 ** (32 - precision):
        words.append(state % 2**16)
        state //= 2**16
    state = state // frequency * 2**precision + start + state % frequency
    assert LOW <= state < 2**32
    return state


def encode_chunk(symbols, rows, precision, lanes, seal=0):
    count = len(symbols)
    tail_words = []
    state = LOW + seal
    tail = 0
    while tail < min(count, 256 * lanes) and len(tail_words) < lanes - 1:
        tail += 1
        state = push(state, symbols[-tail], rows[-tail], precision, tail_words)
    # The word that was written last is the one that is read first: it belongs to lane 1.
    tail_words = tail_words[::-1] + [0] * (lanes - 1 - len(tail_words))
    states = [state] + [LOW + word for word in tail_words]
    words = []
    for i in reversed(range(count - tail)):
        states[i % lanes] = push(states[i % lanes], symbols[i], rows[i], precision, words)
    bits = "".join(
        escape_bits(symbol, row)
        for symbol, row in zip(symbols, rows, strict=True)
        if row.interval(symbol) == row.count
    )
    return b"".join(
        [
            varint(tail) if lanes > 1 else b"",
            packed_bits("".join(state_bits(state) for state in states)),
            *(word.to_bytes(2, "little") for word in reversed(words)),
            packed_bits(bits),
        ]
    )


def packed_bits(bits):
    """A string of 0 and 1 as bytes, filled up with zeros."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def state_bits(state):
    """How far the highest bit is above bit 16, in 4 bits, and the bits below it."""
    binary = bin(state)[2:]
    return f"{len(binary) - 17:04b}" + binary[1:]


def integer_cost(frequency, precision):
    """log2(2**precision / frequency) in 1/1024 bit, linear between powers of two."""
    power = frequency.bit_length() - 1
    return (precision - power) * 1024 - (frequency - 2**power) * 1024 // 2**power


def estimate_payload(symbols, rows, precision):
    """Bytes of words and escapes, from some of the symbols."""
    stride = len(symbols) // 2**12
    stride += 1 - stride % 2
    units = bits = count = 0
    for symbol, row in zip(symbols[::stride], rows[::stride], strict=True):
        interval = row.interval(symbol)
        units += integer_cost(row.frequencies[interval], precision)
        if interval == row.count:
            bits += len(escape_bits(symbol, row))
        count += 1
    return (units // 1024 + bits) * len(symbols) // count // 8


def choose_layout(payload, count, lanes, chunks):
    """The encoder's choice of what is 0 of (lanes, chunks), for a payload of so many bytes."""
    if chunks == 0:
        most = max(1, min(payload // 2**16, count // 2**17))
        chunks = 2 ** (most.bit_length() - 1)
    if lanes == 0:
        lanes = 64
        while lanes > 1 and lanes * 1024 > payload // chunks:
            lanes //= 2
    return lanes, chunks


def encode(symbols, indexes, table_rows, precision, lanes=0, chunks=0, seal=0):
    symbols = [int(symbol) for symbol in symbols]
    rows = [table_rows[int(index)] for index in indexes]
    if not symbols:
        return b"\0"
    payload = estimate_payload(symbols, rows, precision)
    first = choose_layout(payload, len(symbols), lanes, chunks)
    data = encode_as(symbols, rows, precision, *first, seal)
    if lanes and chunks:
        return data
    payload = max(0, len(data) - 4 * first[0] * first[1])
    second = choose_layout(payload, len(symbols), lanes, chunks)
    if 4 * second[0] * second[1] > first[0] * first[1]:
        return data
    return encode_as(symbols, rows, precision, *second, seal)


def encode_as(symbols, rows, precision, lanes, chunks, seal):
    size = -(-len(symbols) // chunks)
    parts = [
        encode_chunk(symbols[i : i + size], rows[i : i + size], precision, lanes, seal)
        for i in range(0, len(symbols), size)
    ]
    assert len(parts) == chunks
    head = bytes([lanes.bit_length() - 1 + (8 if chunks > 1 else 0)])
    if chunks > 1:
        head += varint(chunks) + b"".join(varint(len(part)) for part in parts[:-1])
    return head + b"".join(parts)


class Words:
    """16-bit words from the front of some bytes."""

    def __init__(self, data):
        self.data = data

    def take(self):
        if len(self.data) < 2:
            raise Corrupt
        word = int.from_bytes(self.data[:2], "little")
        self.data = self.data[2:]
        return word


def pop(state, row, precision, words):
    """Take one symbol out of a state; None stands for an escape."""
    interval, rest = row.find(state % 2**precision)
    state = state // 2**precision * row.frequencies[interval] + rest
    if state < LOW:
        state = state * 2**16 + words.take()
    return state, (row.offset + interval if interval < row.count else None)


def decode_chunk(data, rows, precision, lanes):
    count = len(rows)
    tail = 0
    if lanes > 1:
        tail, data = take_varint(data)
        if tail > count:
            raise Corrupt
    bits = "".join(f"{byte:08b}" for byte in data[: 5 * lanes])  # 35 bits a state at most
    position = 0
    states = []
    for _ in range(lanes):
        end = position + 4 + 16 + int(bits[position : position + 4] or "0", 2)
        if end > len(bits):
            raise Corrupt
        states.append(int("1" + bits[position + 4 : end], 2))
        position = end
    used = -(-position // 8)
    if "1" in bits[position : 8 * used]:
        raise Corrupt
    words = Words(data[used:])
    symbols = []
    for i in range(count - tail):
        states[i % lanes], symbol = pop(states[i % lanes], rows[i], precision, words)
        symbols.append(symbol)
    if any(state // 2**16 != 1 for state in states[1:]):
        raise Corrupt
    tail_words = Words(b"".join((state - LOW).to_bytes(2, "little") for state in states[1:]))
    for i in range(count - tail, count):
        states[0], symbol = pop(states[0], rows[i], precision, tail_words)
        symbols.append(symbol)
    if states[0] // 2**16 != 1 or any(tail_words.data):
        raise Corrupt

    bits = "".join(f"{byte:08b}" for byte in words.data)
    position = 0
    for i, row in enumerate(rows):
        if symbols[i] is not None:
            continue
        one = bits.find("1", position)
        zeros = one - position
        end = one + zeros + 2
        if one < 0 or zeros > 32 or end > len(bits):
            raise Corrupt
        distance = int(bits[one : one + zeros + 1], 2) - 1
        below = bits[end - 1] == "1"
        position = end
        symbols[i] = row.offset - 1 - distance if below else row.offset + row.count + distance
        if not -(2**31) <= symbols[i] < 2**31:
            raise Corrupt
    if len(bits) - position >= 8 or "1" in bits[position:]:
        raise Corrupt
    return symbols, states[0] - LOW


def layout(head, data, count):
    """Lanes, chunks, symbols of a chunk, lengths of all chunks but the last, and what follows."""
    lanes, chunks = 2 ** (head % 8), 1
    if head >= 8:
        chunks, data = take_varint(data)
        if not 2 <= chunks <= count:
            raise Corrupt
    size = -(-count // chunks)
    if (chunks - 1) * size >= count:
        raise Corrupt
    sizes = []
    for _ in range(chunks - 1):
        length, data = take_varint(data)
        sizes.append(length)
    return lanes, chunks, size, sizes, data


def decode(data, indexes, table_rows, precision):
    """The symbols and the seal."""
    data = bytes(data)
    rows = [table_rows[int(index)] for index in indexes]
    if not data or data[0] >= 16 or data[0] % 8 > 6:
        raise Corrupt
    head, data = data[0], data[1:]
    if not rows:
        if head or data:
            raise Corrupt
        return [], 0
    lanes, chunks, size, sizes, data = layout(head, data, len(rows))
    symbols, seals = [], set()
    for chunk in range(chunks):
        length = sizes[chunk] if chunk < chunks - 1 else len(data)
        if length > len(data):
            raise Corrupt
        part, data = data[:length], data[length:]
        some, seal = decode_chunk(part, rows[chunk * size : (chunk + 1) * size], precision, lanes)
        symbols += some
        seals.add(seal)
    if len(seals) > 1:
        raise Corrupt
    return symbols, seals.pop()


def decode_beginning(data, indexes, table_rows, precision):
    """The symbols of a stream of which `data` is the beginning; None for those it does not tell."""
    data = bytes(data)
    rows = [table_rows[int(index)] for index in indexes]
    nothing = [None] * len(rows)
    if not rows or not data or data[0] >= 16 or data[0] % 8 > 6:
        return nothing
    try:
        lanes, chunks, size, sizes, data = layout(data[0], data[1:], len(rows))
    except Corrupt:
        return nothing
    symbols = []
    for chunk in range(chunks):
        part = data[: sizes[chunk]] if chunk < chunks - 1 else data
        data = data[len(part) :]
        some = rows[chunk * size : (chunk + 1) * size]
        try:
            symbols += begin_chunk(part, some, precision, lanes)
        except Corrupt:
            break
        if None in symbols:
            break
    return symbols + nothing[len(symbols) :]


class TailWords:
    """The words of the lanes' states; None for those of a lane that stands still."""

    def __init__(self, words):
        self.words = words

    def take(self):
        if not self.words:
            raise Corrupt
        return self.words.pop(0)


def pop_beginning(state, row, precision, words):
    """`pop` where words may be missing: the state is then None. The symbol may be "escape"."""
    interval, rest = row.find(state % 2**precision)
    state = state // 2**precision * row.frequencies[interval] + rest
    if state < LOW:
        word = words.take()
        state = None if word is None else state * 2**16 + word
    return state, (row.offset + interval if interval < row.count else "escape")


class CutWords(Words):
    """Words of which the last ones may be missing: None."""

    def take(self):
        return super().take() if len(self.data) >= 2 else None


def begin_chunk(data, rows, precision, lanes):
    """Symbols of a chunk of which `data` is the beginning; None for those it does not tell."""
    count = len(rows)
    tail = 0
    if lanes > 1:
        tail, data = take_varint(data)
        if tail > count:
            raise Corrupt
    bits = "".join(f"{byte:08b}" for byte in data)
    states = []  # None where a lane stands still
    for _ in range(lanes):
        length = 4 + 16 + int(bits[:4], 2) if len(bits) >= 4 else 4
        states.append(int("1" + bits[4:length], 2) if length <= len(bits) else None)
        bits = bits[length:] if states[-1] else ""
    fill = len(bits) % 8
    if "1" in bits[:fill]:
        raise Corrupt
    words = CutWords(data[len(data) - len(bits) // 8 :])

    symbols = [None] * count
    for i in range(count - tail):
        lane = i % lanes
        if states[lane] is not None:
            states[lane], symbols[i] = pop_beginning(states[lane], rows[i], precision, words)
    if any(state is not None and state // 2**16 != 1 for state in states[1:]):
        raise Corrupt
    tail_words = TailWords([state and state - LOW for state in states[1:]])
    for i in range(count - tail, count):
        if states[0] is not None:
            states[0], symbols[i] = pop_beginning(states[0], rows[i], precision, tail_words)
    if states[0] is not None and states[0] // 2**16 != 1:
        raise Corrupt
    escapes = [i for i in range(count) if symbols[i] == "escape"]
    for i in escapes:
        symbols[i] = None
    if None in states:
        return symbols
    if any(tail_words.words):
        raise Corrupt

    bits = "".join(f"{byte:08b}" for byte in words.data)
    for i in escapes:
        zeros = bits.find("1")
        if zeros > 32 or (zeros < 0 and len(bits) > 32):
            raise Corrupt
        end = 2 * zeros + 2
        if zeros < 0 or end > len(bits):
            return symbols
        distance = int(bits[zeros : end - 1], 2) - 1
        below = bits[end - 1] == "1"
        bits = bits[end:]
        row = rows[i]
        symbols[i] = row.offset - 1 - distance if below else row.offset + row.count + distance
        if not -(2**31) <= symbols[i] < 2**31:
            raise Corrupt
    if len(bits) >= 8 or "1" in bits:
        raise Corrupt
    return symbols
