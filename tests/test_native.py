"""CRC-32C against published vectors and a bit-by-bit twin; how a missing module is reported."""

from __future__ import annotations

import numpy as np
import pytest

from icmh_rt import _native
from icmh_rt.errors import BackendUnavailableError


def crc32c_reference(data, initial=0):
    crc = initial ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# RFC 3720, appendix B.4, and the check value of the CRC catalogue.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_published_vectors(data, expected):
    assert _native.crc32c(data) == expected
    assert _native.module().crc32c_portable(data) == expected
    assert crc32c_reference(data) == expected


def test_crc32c_at_every_length_and_alignment():
    data = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8).tobytes()
    for first in range(9):
        for size in range(70):
            part = data[first : first + size]
            expected = crc32c_reference(part)
            view = memoryview(data)[first : first + size]
            assert _native.crc32c(view) == expected
            assert _native.module().crc32c_portable(view) == expected
            assert _native.crc32c(part[7:], _native.crc32c(part[:7])) == expected


def test_crc32c_takes_arrays_in_c_order_only():
    array = np.arange(24, dtype=np.int32).reshape(4, 6)
    assert _native.crc32c(array) == _native.crc32c(array.tobytes())
    assert _native.crc32c(array[:0]) == 0
    with pytest.raises(ValueError, match="not C-contiguous"):
        _native.crc32c(array.T)


def test_a_missing_module_is_explained_every_time(monkeypatch):
    def refuse(name):
        raise ImportError("undefined symbol: example")

    monkeypatch.setattr(_native, "_module", None)
    monkeypatch.setattr(_native, "_failure", None)
    monkeypatch.setattr(_native.importlib, "import_module", refuse)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="undefined symbol: example") as caught:
            _native.module()
        assert "pip install" in str(caught.value)
        assert "\n" not in str(caught.value)
