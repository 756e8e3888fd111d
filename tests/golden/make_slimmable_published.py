"""Recompute slimmable_factorized.npz and slimmable_hyper.npz with the published code.

`python tests/golden/make_slimmable_published.py FOLDER`, where FOLDER holds model_gdn.py and
slimmable_ops.py of github.com/May-Yao/slimmable_image_compression; needs compressai 1.2.8. The
random weights (`state.*`) and images (`x`) stay as they are in the files; N is 24.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent


@torch.no_grad()
def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import model_gdn

    classes = {
        "slimmable_factorized": model_gdn.Slimable_Modelgdn,
        "slimmable_hyper": model_gdn.Slimable_HyperModelgdn,
    }
    for name, published in classes.items():
        arrays = dict(np.load(FOLDER / f"{name}.npz"))
        kept = {k: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state.")}
        model = published(24).eval()
        # Not the class's own load_state_dict: CompressAI 1.2.8 cannot rename the keys of
        # entropy_bottleneck beside those of entropy_bottleneck_fea.
        torch.nn.Module.load_state_dict(
            model, {k.removeprefix("state."): v for k, v in kept.items()}, strict=True
        )
        x = torch.from_numpy(arrays["x"])
        for width in model_gdn.width_mult_list:
            model.apply(lambda module, width=width: setattr(module, "width_mult", width))
            out = model(x)
            tensors = {"y": model.g_a(x)}
            tensors |= {k: v for k, v in out.items() if k != "likelihoods"}
            tensors |= {f"likelihood_{k}": v for k, v in out["likelihoods"].items()}
            for key, tensor in tensors.items():
                key = f"w{width:g}.{key}"
                change = np.abs(tensor.numpy() - arrays[key]).max() / np.abs(arrays[key]).max()
                print(f"{name} {key}: changes by {change:.1e}")
                arrays[key] = tensor.numpy()
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
