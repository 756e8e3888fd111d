"""Regenerate compressai_families.npz: `python tests/golden/make_compressai_families.py`.

CompressAI's own classes (1.2.8) on random weights: `FAMILY.state.*`, the common image `x`, and
every intermediate tensor in eval mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent
N, M = 6, 9  # 9 * 3 // 2 rounds down


@torch.no_grad()
def main() -> None:
    sys.path.insert(0, str(FOLDER.parent / "models"))
    from codec_cases import scramble
    from compressai import models

    x = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    tensors = {"x": x}
    classes = (models.FactorizedPrior, models.ScaleHyperprior, models.MeanScaleHyperprior)
    for seed, published in enumerate(classes):
        model = scramble(published(N, M), seed).eval()
        y = model.g_a(x)
        out = {"y": y, "x_hat": model(x)["x_hat"]}
        out |= {f"likelihood_{k}": v for k, v in model(x)["likelihoods"].items()}
        if published is not models.FactorizedPrior:
            zero_mean = published is models.ScaleHyperprior
            out["z"] = model.h_a(torch.abs(y) if zero_mean else y)
            out["params"] = model.h_s(model.entropy_bottleneck(out["z"])[0])
        out |= {f"state.{key}": value for key, value in model.state_dict().items()}
        tensors |= {f"{published.__name__}.{key}": value for key, value in out.items()}
    arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in tensors.items()}
    np.savez_compressed(FOLDER / "compressai_families.npz", **arrays)


if __name__ == "__main__":
    main()
