"""Regenerate rans_compressai.npz: `python tests/golden/make_rans_compressai.py` (needs compressai).

Tables of CompressAI's GaussianConditional, symbols drawn from them (a few far outside), and the
stream that CompressAI's own coder makes of these.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from compressai import ans
from compressai.entropy_models import GaussianConditional

FOLDER = Path(__file__).resolve().parent
SCALES = [0.11, 0.2, 0.5, 1.0, 2.7, 8.0]


def main() -> None:
    model = GaussianConditional(SCALES)
    model.update()
    arrays = {
        "cdfs": model._quantized_cdf.numpy().astype(np.int32),
        "lengths": model._cdf_length.numpy().astype(np.int32),
        "offsets": model._offset.numpy().astype(np.int32),
    }
    rng = np.random.default_rng(1)
    indexes = rng.integers(0, len(SCALES), 4000).astype(np.int32)
    symbols = np.rint(rng.normal(size=4000) * np.array(SCALES)[indexes]).astype(np.int32)
    symbols[::500] = rng.integers(-3000, 3000, 8)
    stream = ans.RansEncoder().encode_with_indexes(
        symbols.tolist(),
        indexes.tolist(),
        arrays["cdfs"].tolist(),
        arrays["lengths"].tolist(),
        arrays["offsets"].tolist(),
    )
    arrays |= {"symbols": symbols, "indexes": indexes, "stream": np.frombuffer(stream, np.uint8)}
    np.savez_compressed(FOLDER / "rans_compressai.npz", **arrays)


if __name__ == "__main__":
    main()
