"""Network definitions: the default codec, the published systems, and adapters for all of them.

Names are loaded when they are first used: importing this package imports no torch. docs/models.md
says what each model is and where it comes from.
"""

from __future__ import annotations

import importlib
from typing import Any

from icmh_rt.errors import BackendUnavailableError

_HOMES = {
    "SFMA": "sfma",
    "TIC": "tic",
    "SlimmableFactorized": "slimmable_published",
    "SlimmableHyper": "slimmable_published",
    "FactorizedPrior": "compressai_families",
    "ScaleHyperprior": "compressai_families",
    "MeanScaleHyperprior": "compressai_families",
    "EntropyBottleneck": "entropy",
    "GaussianConditional": "entropy",
    "load_checkpoint": "checkpoints",
    "from_state_dict": "checkpoints",
    "describe": "checkpoints",
    "attach_adapters": "adapters",
    "detach_adapters": "adapters",
    "use_task": "adapters",
    "current_task": "adapters",
    "attached_tasks": "adapters",
    "adapter_parameters": "adapters",
    "adapter_report": "adapters",
    "save_adapters": "adapters",
    "load_adapters": "adapters",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendUnavailableError(
            f"icmh_rt.models.{name} needs torch: pip install 'icmh-rt[torch]'"
        ) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
