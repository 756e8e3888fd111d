"""Entropy coding of integer planes with quantized CDF tables; numpy in and out.

A symbol is coded with the table row that its index names; values outside a row are coded through
the row's last interval, the escape. docs/rans.md defines the stream bit by bit. The coder is rANS
(Duda, "Asymmetric numeral systems", arXiv:1311.2540) with interleaved lanes (Giesen, "Interleaved
entropy coders", arXiv:1402.3392).
"""

from icmh_rt.rans import compat
from icmh_rt.rans.coder import decode, decode_beginning, decode_sealed, encode, max_encoded_size
from icmh_rt.rans.tables import MAX_PRECISION, MIN_PRECISION, RECOMMENDED_PRECISION, Tables

__all__ = [
    "MAX_PRECISION",
    "MIN_PRECISION",
    "RECOMMENDED_PRECISION",
    "Tables",
    "compat",
    "decode",
    "decode_beginning",
    "decode_sealed",
    "encode",
    "max_encoded_size",
]
