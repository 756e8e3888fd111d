"""A task network's weights from the user's file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from icmh_rt.errors import OptionError


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Give ``module`` the state dict in a .safetensors file or in one that torch saved.

    Raises:
        OptionError: the file is missing, or does not fit the module.
    """
    if not Path(path).is_file():
        raise OptionError(f"no weights {str(path)!r}")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            module.load_state_dict(load_file(path))
        else:
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, pickle and safetensors share no exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(
            f"{str(path)!r} does not fit {type(module).__name__}: {reason[:300]}"
        ) from None
