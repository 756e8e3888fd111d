"""Repack recordings of the published TIC: `python tests/golden/make_tic.py RECORDINGS OUT`.

RECORDINGS holds sfma.safetensors (`state.*`, `in0..2`, `out0..2`) and tic_sfma.safetensors
(`state.*`, and with 0 or 1 behind them `x y z z_hat gaussian_params x_hat y_likelihood
z_likelihood`), written by the published implementation (github.com/qingshi9974/
ECCV2024-AdpatICMH) on random weights. OUT gets sfma.npz, and tic_encoder.npz and tic_decoder.npz:
the state between them, the images of one size, the latents of both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ENCODER_STATE = ("state.g_a", "state.h_a", "state.encoder_sfmas")
ENCODER_TENSORS = ("x0", "y0", "y1", "z0", "z1", "y_likelihood1", "z_likelihood1")
DECODER_TENSORS = (
    *("x_hat0", "z_hat0", "z_hat1", "gaussian_params0", "gaussian_params1"),
    *("y_likelihood0", "z_likelihood0"),
)


def main() -> None:
    recordings, out = Path(sys.argv[1]), Path(sys.argv[2])
    np.savez_compressed(out / "sfma.npz", **load_file(recordings / "sfma.safetensors"))
    arrays = load_file(recordings / "tic_sfma.safetensors")
    encoder = {key for key in arrays if key.startswith(ENCODER_STATE)}
    decoder = {key for key in arrays if key.startswith("state.")} - encoder
    for name, keys in (
        ("tic_encoder", encoder.union(ENCODER_TENSORS)),
        ("tic_decoder", decoder.union(DECODER_TENSORS)),
    ):
        np.savez_compressed(out / f"{name}.npz", **{key: arrays[key] for key in sorted(keys)})


if __name__ == "__main__":
    main()
