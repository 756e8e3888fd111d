"""Regenerate rans.npz: `python tests/golden/make_rans.py`.

The streams come from the Python twin (tests/rans/rans_reference.py), not from the C++ coder. They
are frozen: if one changes, the format has changed and every stored stream is lost.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    sys.path.insert(0, str(FOLDER.parent / "rans"))
    import rans_cases
    import rans_reference

    arrays = {}
    cases = {
        "empty": (12, 0, 0, 0),
        "one": (16, 1, 0, 0),
        "small": (14, 100, 0, 0),
        "lanes32": (12, 3000, 32, 1),
        "chunks": (15, 1001, 4, 3),
        "own_layout": (13, 4097, 0, 0),
    }
    for name, (precision, count, lanes, chunks) in cases.items():
        tables = rans_cases.ugly_tables(precision)
        symbols, indexes = rans_cases.ugly_symbols(tables, count, np.random.default_rng(count))
        stream = rans_reference.encode(
            symbols, indexes, rans_reference.rows_of(tables), precision, lanes, chunks
        )
        arrays[f"{name}.layout"] = np.array([precision, lanes, chunks])
        arrays[f"{name}.symbols"] = symbols
        arrays[f"{name}.indexes"] = indexes
        arrays[f"{name}.stream"] = np.frombuffer(stream, np.uint8)
    np.savez_compressed(FOLDER / "rans.npz", **arrays)


if __name__ == "__main__":
    main()
