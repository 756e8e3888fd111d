"""The CompressAI stream in plain Python integers, written from docs/rans.md for clarity.

The twin that csrc/rans/compat.cpp is compared with, byte for byte and refusal for refusal. Tables
are lists: cdfs[i][: lengths[i]] is a row.
"""

from __future__ import annotations

STATE_LOW = 2**31
STATE_END = 2**63


class Refused(Exception):
    """The symbols cannot be encoded."""


class Corrupt(Exception):
    """The data is not a stream."""


def encode(planes):
    """The stream of planes (symbols, indexes, cdfs, lengths, offsets)."""
    pieces = []  # in the decoder's order: (start, frequency) of an interval, or a nibble
    for symbols, indexes, cdfs, lengths, offsets in planes:
        for symbol, index in zip(symbols, indexes, strict=True):
            pieces += pieces_of(symbol, cdfs[index], lengths[index], offsets[index])
    return push(pieces)


def push(pieces):
    """The stream that decodes to these pieces."""
    state, words = STATE_LOW, []
    for piece in reversed(pieces):
        is_nibble = isinstance(piece, int)
        frequency = 2**12 if is_nibble else piece[1]
        if state >= frequency * 2**47:
            words.append(state % 2**32)
            state //= 2**32
        if is_nibble:
            state = state * 16 + piece
        else:
            state = state // frequency * 2**16 + piece[0] + state % frequency
    numbers = [state % 2**32, state // 2**32, *reversed(words)]
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def pieces_of(symbol, cdf, length, offset):
    """One symbol's interval and, if it is the escape, the nibbles that follow."""
    count = length - 2
    value = symbol - offset
    interval = value if 0 <= value < count else count
    start, end = cdf[interval], cdf[interval + 1]
    if start == end:
        raise Refused
    if interval < count:
        return [(start, end - start)]
    raw = -2 * value - 1 if value < 0 else 2 * (value - count)
    if raw >= 2**31:
        raise Refused
    nibbles = []
    while raw:
        nibbles.append(raw % 16)
        raw //= 16
    return [(start, end - start), len(nibbles), *nibbles]


def decode(data, planes):
    """The symbols of each plane (indexes, cdfs, lengths, offsets), and whether that was all."""
    data = bytes(data)
    if len(data) < 8:
        raise Corrupt
    reader = Reader(int.from_bytes(data[:8], "little"), data[8:])
    if not STATE_LOW <= reader.state < STATE_END:
        raise Corrupt
    decoded = []
    for indexes, cdfs, lengths, offsets in planes:
        decoded.append([reader.symbol(cdfs[i], lengths[i], offsets[i]) for i in indexes])
    return decoded, not reader.data and reader.state == STATE_LOW


class Reader:
    def __init__(self, state, data):
        self.state = state
        self.data = data

    def refill(self):
        if self.state < STATE_LOW:
            if len(self.data) < 4:
                raise Corrupt
            self.state = self.state * 2**32 + int.from_bytes(self.data[:4], "little")
            self.data = self.data[4:]
        assert STATE_LOW <= self.state < STATE_END  # docs/rans.md says why

    def nibble(self):
        value = self.state % 16
        self.state //= 16
        self.refill()
        return value

    def symbol(self, cdf, length, offset):
        slot = self.state % 2**16
        interval = next(k for k in range(length - 1) if cdf[k] <= slot < cdf[k + 1])
        frequency = cdf[interval + 1] - cdf[interval]
        self.state = self.state // 2**16 * frequency + slot - cdf[interval]
        self.refill()
        value = interval
        if interval == length - 2:
            count = self.nibble()
            if count > 8:
                raise Corrupt
            raw = sum(self.nibble() * 16**k for k in range(count))
            if raw >= 2**31:
                raise Corrupt
            value = -(raw // 2) - 1 if raw % 2 else raw // 2 + length - 2
        if not -(2**31) <= value + offset < 2**31:
            raise Corrupt
        return value + offset
