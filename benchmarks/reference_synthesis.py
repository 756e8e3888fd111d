"""Claim: the reference path of published models costs no rate and little time.

    python benchmarks/reference_synthesis.py [--rounds N] [--threads N]

Runs h_s of published models at their usual sizes, with random weights, on a hyper-latent of a
512x768 image, as the reference path and as the torch models in float32 and float64. Prints the
median times (in interleaved rounds), the largest error against float64 and how many scale indexes
differ from float64's, as the table of docs/reference_synthesis.md. Exit code 1 if more than 0.01 %
of the indexes differ.
"""

from __future__ import annotations

import argparse
import sys

from command import set_threads

HYPER_SIZE = (8, 12)
INDEX_BAR = 1e-4
SIZES = (("tic", 128, 192), ("bmshj2018-hyperprior", 128, 192))
SIZES += (("mbt2018-mean", 128, 192), ("mbt2018-mean", 192, 320))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    print(
        "| h_s | this path | torch float32 | torch float64 | error: this path / float32 | ", end=""
    )
    print("indexes that differ: this path / float32 |\n|---|---|---|---|---|---|")
    return 0 if all([_measure(*size, options.rounds) for size in SIZES]) else 1


def _measure(family: str, n: int, m: int, rounds: int) -> bool:
    """Print the row of one model; whether it meets the bar."""
    import numpy as np
    import torch
    from timing import interleaved, median_interval

    from icmh_rt.models import reference_synthesis
    from icmh_rt.models.entropy import default_scale_table

    model = _model(family, n, m)
    state = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    scales = default_scale_table().numpy()
    path = reference_synthesis.build(family, state, m, scales)
    z = np.rint(np.random.default_rng(0).laplace(0, 3, (*HYPER_SIZE, n)))
    single = torch.from_numpy(z.transpose(2, 0, 1).copy())[None].float()
    h_s = {torch.float32: model.h_s, torch.float64: _model(family, n, m).double().h_s}

    def run(dtype):
        with torch.inference_mode():
            return h_s[dtype](single.to(dtype))[0].permute(1, 2, 0).double().numpy()

    found = interleaved(
        {
            "path": lambda: path.run(z),
            "float32": lambda: run(torch.float32),
            "float64": lambda: run(torch.float64),
        },
        rounds,
    )
    times = [median_interval([t for t, _ in runs]).value * 1e3 for runs in found.values()]
    outputs = {name: runs[0][1] for name, runs in found.items()}
    truth = outputs["float64"]
    rows = {k: np.searchsorted(scales[:-1], v[..., :m]) for k, v in outputs.items()}
    errors, differ = [], []
    for name in ("path", "float32"):
        errors.append(np.abs(outputs[name] - truth).max() / np.abs(truth).max())
        differ.append(int((rows[name] != rows["float64"]).sum()))
    print(
        f"| {family}, N={n}, M={m} | {' | '.join(f'{t:.0f} ms' for t in times)} | "
        f"{errors[0]:.1e} / {errors[1]:.1e} | {differ[0]} / {differ[1]} of {rows['path'].size:,} "
        f"({len(np.unique(rows['path']))} rows used) |"
    )
    return differ[0] <= INDEX_BAR * rows["path"].size


def _model(family: str, n: int, m: int):
    """Random weights, scaled so that many rows of the scale table are used."""
    import torch

    from icmh_rt.models.compressai_families import MeanScaleHyperprior, ScaleHyperprior
    from icmh_rt.models.tic import TIC

    torch.manual_seed(1)
    classes = {"tic": TIC, "bmshj2018-hyperprior": ScaleHyperprior}
    model = classes.get(family, MeanScaleHyperprior)(n, m)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("h_s"):
                parameter.mul_(6.0 if parameter.ndim == 4 and family == "tic" else 3.0)
    return model.eval()


if __name__ == "__main__":
    sys.exit(main())
