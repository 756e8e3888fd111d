"""Trained checkpoints of the published codecs: recognised by their keys, loaded strictly.

`load_checkpoint` reads a file, `from_state_dict` takes what is already in memory, `describe` says
what a model is. Nothing in a file is ever executed: torch files are read with
``weights_only=True``. All sizes come from the tensors' shapes.

What is accepted besides a plain state dict: it may lie in a dictionary, under one of `WRAPPERS`
(with epochs, optimizers and so on beside it); all of its keys may begin with one or more of
`PREFIXES`; the entropy bottlenecks may have the names of older CompressAI versions; and TIC's
files may hold the attention masks (``*.attn_mask``) that TransTIC's trainer stores, which the
published TIC does not use.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from icmh_rt.errors import BackendUnavailableError, BundleError, OptionError
from icmh_rt.models.compressai_families import (
    FactorizedPrior,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from icmh_rt.models.entropy import rename_old_keys
from icmh_rt.models.slimmable_published import (
    PUBLISHED_WIDTHS,
    SlimmableFactorized,
    SlimmableHyper,
)
from icmh_rt.models.tic import TIC

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "codec", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "codec.")
_SIZED_BY_FILE = re.compile(r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table)$")
_NAMES_SHOWN = 4
_MAX_NESTING = 4  # of wrappers; a file may hold a dictionary that holds itself

State = dict[str, Tensor]


class _Unsized(Exception):
    """A tensor does not tell a size: it is missing (no message), or of a form that tells none."""


@dataclass(frozen=True)
class _Family:
    """One kind of codec.

    Args:
        name: as in messages and descriptions.
        build: its class.
        sizes: the class's arguments for a state dict; _Unsized if it does not tell them.
        example: small arguments that give the family's keys where ``sizes`` cannot.
    """

    name: str
    build: Callable[..., nn.Module]
    sizes: Callable[[State], dict[str, Any]]
    example: dict[str, Any]


def _size(state: State, key: str, axis: int, axes: int) -> int:
    tensor = state.get(key)
    if tensor is None:
        raise _Unsized
    if tensor.ndim != axes or tensor.shape[axis] < 1:
        raise _Unsized(f"{key} ({_form(tensor)}, which tells no size)")
    return int(tensor.shape[axis])


def _tic_sizes(state: State) -> dict[str, Any]:
    return {"N": _size(state, "g_a0.weight", 0, 4), "M": _size(state, "g_a6.weight", 0, 4)}


def _tic_sfma_sizes(state: State) -> dict[str, Any]:
    return {**_tic_sizes(state), "adapters": _size(state, "encoder_sfmas.0.s_down1.weight", 0, 4)}


def _google_sizes(state: State) -> dict[str, Any]:
    return {"N": _size(state, "g_a.0.weight", 0, 4), "M": _size(state, "g_a.6.weight", 0, 4)}


def _width_of(channels: int, n: int) -> float:
    """A width w with ``int(n * w) == channels``: the published one or the shortest decimal."""
    if channels == n:
        return 1.0
    if int(n * PUBLISHED_WIDTHS[0]) == channels:
        return PUBLISHED_WIDTHS[0]
    for digits in range(2, 12):
        scale = 10**digits
        width = -(-channels * scale // n) / scale
        if int(n * width) == channels:
            return width
    raise _Unsized(f"no width gives {channels} of {n} channels")


def _slimmable_sizes(state: State) -> dict[str, Any]:
    n = _size(state, "g_a.0.weight", 0, 4)
    count = sum(re.fullmatch(r"g_a\.1\.bn\.\d+\.beta", key) is not None for key in state)
    channels = [_size(state, f"g_a.1.bn.{i}.beta", 0, 1) for i in range(count)]
    if sorted({*channels, n}) != channels:
        raise _Unsized(f"g_a.1.bn (of {channels} channels, not rising to the {n} of g_a.0.weight)")
    widths = [_width_of(c, n) for c in channels]
    # What the published code makes has a feature transform at the narrowest width only.
    narrow = [
        width
        for i, width in enumerate(widths)
        if f"latent_transform{i or ''}.0.weight" in state or (i == 0 and len(widths) > 1)
    ]
    return {"N": n, "widths": widths, "feature_widths": narrow}


_SLIMMABLE_EXAMPLE = {"N": 6, "widths": PUBLISHED_WIDTHS}
_GOOGLE_EXAMPLE = {"N": 4, "M": 6}
_FAMILIES = (
    _Family("tic", TIC, _tic_sizes, {"N": 16, "M": 16}),
    _Family("tic-sfma", TIC, _tic_sfma_sizes, {"N": 16, "M": 16, "adapters": 1}),
    _Family("slimmable-factorized", SlimmableFactorized, _slimmable_sizes, _SLIMMABLE_EXAMPLE),
    _Family("slimmable-hyper", SlimmableHyper, _slimmable_sizes, _SLIMMABLE_EXAMPLE),
    _Family("bmshj2018-factorized", FactorizedPrior, _google_sizes, _GOOGLE_EXAMPLE),
    _Family("bmshj2018-hyperprior", ScaleHyperprior, _google_sizes, _GOOGLE_EXAMPLE),
    _Family("mbt2018-mean", MeanScaleHyperprior, _google_sizes, _GOOGLE_EXAMPLE),
)


# -- recognising -----------------------------------------------------------------------------------


@functools.cache
def _example_keys() -> dict[str, frozenset[str]]:
    return {f.name: frozenset(f.build(**f.example).state_dict()) for f in _FAMILIES}


def _nearest(state: State) -> tuple[_Family, ...]:
    """The families whose keys are most like those of ``state``; none if no key is of any."""

    def likeness(family: _Family) -> float:
        keys = _example_keys()[family.name]
        return len(keys & state.keys()) / len(keys | state.keys())

    best = max(map(likeness, _FAMILIES))
    return tuple(f for f in _FAMILIES if best > 0 and likeness(f) == best)


@dataclass(frozen=True)
class _Match:
    """How a state dict compares with one family."""

    family: _Family
    arguments: dict[str, Any]
    missing: list[str]
    surplus: list[str]
    misshapen: list[str]  # "key (found, not wanted)"

    @property
    def exact(self) -> bool:
        return not (self.missing or self.surplus or self.misshapen)


def _compare(state: State, family: _Family) -> _Match:
    sized = True
    try:
        arguments = family.sizes(state)
        wanted = _skeleton(family, arguments)
    except (_Unsized, OptionError) as error:  # OptionError: no such model can be made
        if str(error):
            return _Match(family, {}, [], [], [str(error)])
        sized, arguments = False, family.example
        wanted = _skeleton(family, arguments)
    misshapen = [
        f"{_shown(key)} ({_form(state[key])}, not {_form(tensor)})"
        for key, tensor in wanted.items()
        if sized and key in state and not _fits(key, state[key], tensor)
    ]
    return _Match(
        family,
        arguments,
        missing=[_shown(key) for key in wanted if key not in state],
        surplus=[_shown(key) for key in state if key not in wanted],
        misshapen=misshapen,
    )


def _skeleton(family: _Family, arguments: dict[str, Any]) -> State:
    """A state dict of the family whose tensors take no memory."""
    with torch.device("meta"):
        return family.build(**arguments).state_dict()


def _fits(key: str, tensor: Tensor, wanted: Tensor) -> bool:
    if tensor.is_floating_point() != wanted.is_floating_point():
        return False
    return tensor.shape == wanted.shape or _SIZED_BY_FILE.search(key) is not None


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _shown(key: str) -> str:
    """``key`` as a message may hold it: one line, not long, whatever a file put there."""
    return key if re.fullmatch(r"[\w.]{1,80}", key, re.ASCII) else ascii(key[:60])


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _complaint(match: _Match) -> str:
    parts = []
    if match.missing:
        parts.append(f"lacks {_listed(match.missing)}")
    if match.surplus:
        parts.append(f"has no place for {_listed(match.surplus)}")
    if match.misshapen:
        parts.append(f"has other tensors: {_listed(match.misshapen)}")
    return "; ".join(parts)


# -- unwrapping ------------------------------------------------------------------------------------


def _state_of(checkpoint: Mapping[str, Any], what: str) -> State:
    """The tensors of ``checkpoint`` under their names of today, without wrapper and prefix."""
    state = checkpoint
    for _ in range(_MAX_NESTING):
        inner = (state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping))
        state = next(inner, state)
    if not state:
        raise BundleError(f"{what} is empty; save the model's state_dict()")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BundleError(
                f"{what} holds a {type(value).__name__} under {ascii(key)[:60]}, not a tensor; "
                f"give a state dict, or a dictionary that has it under {', '.join(WRAPPERS)}"
            )
    state = dict(state)
    while (prefix := _common_prefix(state)) is not None:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    renamed = rename_old_keys(state)
    if len(renamed) != len(state):
        raise BundleError(f"{what} holds old and new names of one entropy bottleneck's parameters")
    return {key: value for key, value in renamed.items() if not key.endswith(".attn_mask")}


def _common_prefix(state: State) -> str | None:
    return next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)


# -- loading ---------------------------------------------------------------------------------------


def from_state_dict(state: Mapping[str, Any]) -> nn.Module:
    """The model whose weights these are, in eval mode, with copies of them.

    Args:
        state: a state dict, or a checkpoint dictionary that holds one.

    Returns:
        `TIC`, `SlimmableFactorized`, `SlimmableHyper`, `FactorizedPrior`, `ScaleHyperprior` or
        `MeanScaleHyperprior`.

    Raises:
        OptionError: it is no dictionary.
        BundleError: it is no such model; names the nearest one, and what lacks or is too much.
    """
    if not isinstance(state, Mapping):
        raise OptionError(f"state is a {type(state).__name__}; give a dictionary of tensors")
    return _from_checkpoint(state, "the state dict")


def _from_checkpoint(checkpoint: Mapping[str, Any], what: str) -> nn.Module:
    state = _state_of(checkpoint, what)
    matches = [_compare(state, family) for family in _nearest(state)]
    if not matches:
        raise BundleError(
            f"{what} is of no model known here ({', '.join(f.name for f in _FAMILIES)}): none has "
            f"{_listed(map(_shown, state))}"
        )
    match = min(matches, key=lambda match: len(match.misshapen))
    if not match.exact:
        raise BundleError(
            f"{what} is of no model known here; the nearest, {match.family.name}, does not fit: "
            f"it {_complaint(match)}"
        )
    model = match.family.build(**match.arguments)
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, NotImplementedError) as error:  # sparse tensors, tensors without data
        reason = str(error).splitlines()[-1].strip()[:200]
        raise BundleError(f"{what} cannot be copied: {reason}") from None
    return model.eval()


def load_checkpoint(path: str | Path) -> nn.Module:
    """The model that a file holds, on the CPU, in eval mode.

    Args:
        path: a file of ``torch.save`` or a safetensors file, whatever its name.

    Returns:
        As `from_state_dict`.

    Raises:
        BundleError: the file cannot be read, holds anything but tensors and plain values, or is
            of no known model.
        BackendUnavailableError: it is a safetensors file and safetensors is not installed.
    """
    what = f"checkpoint {str(path)!r}"
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except (OSError, TypeError, ValueError) as error:
        raise BundleError(f"{what} cannot be read: {_first_line(error)}") from None
    # Eight bytes of length, then JSON; torch's files begin with a zip's or a pickle's marks.
    checkpoint = _safetensors(path, what) if start[8:] == b"{" else _torch(path, what)
    if not isinstance(checkpoint, Mapping):
        raise BundleError(
            f"{what} holds a {type(checkpoint).__name__}, not a dictionary of tensors; save the "
            "model's state_dict()"
        )
    return _from_checkpoint(checkpoint, what)


def _torch(path: str | Path, what: str) -> Any:
    try:
        with _numbers_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make it raise whatever the reader trips over
        refused = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
        if refused:
            raise BundleError(
                f"{what} holds Python objects ({_shown(refused[1])}), whose loading could run "
                "code: not loaded; save the model's state_dict() alone"
            ) from None
        raise BundleError(
            f"{what} cannot be read; it is damaged or no checkpoint: {_first_line(error)}"
        ) from None


def _numbers_allowed() -> AbstractContextManager:
    """Lets numpy's numbers through: trainers keep their losses as such beside the weights."""
    if torch.torch_version.TorchVersion(torch.__version__) < (2, 6):
        return nullcontext()
    make = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # numpy 1 and 2
    types = {type(np.dtype(code)) for code in ("?", "i4", "i8", "f4", "f8")}
    return torch.serialization.safe_globals([*((make, name) for name in names), np.dtype, *types])


def _safetensors(path: str | Path, what: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise BackendUnavailableError(
            f"reading {what} needs safetensors: pip install 'icmh-rt[torch]'"
        ) from None
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # as above
        raise BundleError(
            f"{what} cannot be read; it is damaged or no safetensors file: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    text = str(error)
    if "eights only load failed" in text:  # advises unsafe loading before it says what is wrong
        text = text.rpartition("WeightsUnpickler error:")[2]
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"[:200].rstrip(": ")


# -- describing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """What a converter has to know of a model.

    Args:
        family: ``tic``, ``tic-sfma``, ``slimmable-factorized``, ``slimmable-hyper``,
            ``bmshj2018-factorized``, ``bmshj2018-hyperprior`` or ``mbt2018-mean``.
        latent_channels: of y, at each width.
        hyper_channels: of z, at each width; empty without a hyperprior.
        widths: ascending, the last one 1; ``(1.0,)`` unless the model is slimmable.
        outputs: at each width ``"image"``, ``"feature"``, or ``"none"`` (no decoder stored).
        entropy_model: of y: ``"factorized"``, ``"scale"`` or ``"mean_scale"``.
        stride: image sizes are padded to multiples of it.
        latent_stride: image pixels that one position of y covers, along each axis.
        stored_tables: whether the checkpoint brought integer tables for every entropy model.
    """

    family: str
    latent_channels: tuple[int, ...]
    hyper_channels: tuple[int, ...]
    widths: tuple[float, ...]
    outputs: tuple[str, ...]
    entropy_model: str
    stride: int
    latent_stride: int
    stored_tables: bool


def describe(model: nn.Module) -> Description:
    """Describe one of the models that `from_state_dict` returns.

    Raises:
        OptionError: it is another one.
    """
    families = [f.name for f in _FAMILIES if type(model) is f.build]
    if not families:
        raise OptionError(f"model is a {type(model).__name__}, none of those that load here")
    family = families[1 if isinstance(model, TIC) and model.has_adapters else 0]
    widths: tuple[float, ...] = (1.0,)
    outputs: tuple[str, ...] = ("image",)
    latent: tuple[int, ...] = (model.latent_channels,)
    hyper: tuple[int, ...] = () if model.hyper_channels is None else (model.hyper_channels,)
    if isinstance(model, (SlimmableFactorized, SlimmableHyper)):
        widths, latent = model.widths.values, model.widths.channels
        hyper = latent if hyper else ()
        outputs = tuple(
            "feature" if w in model.feature_widths else "image" if w == 1 else "none"
            for w in widths
        )
    if not hyper:
        entropy_model = "factorized"
    else:
        zero_mean = isinstance(model, SlimmableHyper) or type(model) is ScaleHyperprior
        entropy_model = "scale" if zero_mean else "mean_scale"
    coders = [m for m in model.modules() if hasattr(m, "has_stored_tables")]
    return Description(
        family=family,
        latent_channels=latent,
        hyper_channels=hyper,
        widths=widths,
        outputs=outputs,
        entropy_model=entropy_model,
        stride=model.stride,
        latent_stride=model.latent_stride,
        stored_tables=all(m.has_stored_tables for m in coders),
    )
