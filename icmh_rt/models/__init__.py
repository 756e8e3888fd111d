"""Network definitions: the default codec, the published systems, and adapters for all of them.

Names are loaded when they are first used: importing this package imports no torch. docs/models.md
says what each model is and where it comes from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from icmh_rt.errors import BackendUnavailableError

if TYPE_CHECKING:  # what a type checker takes the lazy names for
    from icmh_rt.models.adapters import adapter_parameters as adapter_parameters
    from icmh_rt.models.adapters import adapter_report as adapter_report
    from icmh_rt.models.adapters import attach_adapters as attach_adapters
    from icmh_rt.models.adapters import attached_tasks as attached_tasks
    from icmh_rt.models.adapters import current_task as current_task
    from icmh_rt.models.adapters import detach_adapters as detach_adapters
    from icmh_rt.models.adapters import load_adapters as load_adapters
    from icmh_rt.models.adapters import save_adapters as save_adapters
    from icmh_rt.models.adapters import use_task as use_task
    from icmh_rt.models.checkpoints import describe as describe
    from icmh_rt.models.checkpoints import from_state_dict as from_state_dict
    from icmh_rt.models.checkpoints import load_checkpoint as load_checkpoint
    from icmh_rt.models.compressai_families import FactorizedPrior as FactorizedPrior
    from icmh_rt.models.compressai_families import MeanScaleHyperprior as MeanScaleHyperprior
    from icmh_rt.models.compressai_families import ScaleHyperprior as ScaleHyperprior
    from icmh_rt.models.entropy import EntropyBottleneck as EntropyBottleneck
    from icmh_rt.models.entropy import GaussianConditional as GaussianConditional
    from icmh_rt.models.sfma import SFMA as SFMA
    from icmh_rt.models.slimmable_published import SlimmableFactorized as SlimmableFactorized
    from icmh_rt.models.slimmable_published import SlimmableHyper as SlimmableHyper
    from icmh_rt.models.tic import TIC as TIC

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


def _load(name: str) -> Any:
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


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
