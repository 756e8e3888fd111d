"""Entropy models with CompressAI's parameter names, without CompressAI.

`EntropyBottleneck` is the learned per-channel density of Ballé et al., "Variational image
compression with a scale hyperprior" (ICLR 2018, appendix 6.1); `GaussianConditional` the Gaussian
of a predicted scale, integrated over unit bins. State dicts of CompressAI 1.2 load strictly,
whether their tables were filled (``update()``) or not; `rename_old_keys` brings older ones over.
What the coder needs, integer tables, comes from `tables`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmh_rt.errors import OptionError
from icmh_rt.gaussian import LIKELIHOOD_FLOOR, pmf_rows, upper_tail
from icmh_rt.rans import Tables

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 64
"""The scale table of every published codec; used where a file holds none."""

STORED_PRECISION = 16
"""Bits of the tables in CompressAI's buffers."""

TABLE_TAIL = 1e-6
"""Probability that a computed row leaves to its escape. Entries less likely than a slot of the
table cost more than they bring, so the 1e-9 that the published tables stop at is too far out."""

_TAIL_MASS = 1e-9  # where the published `quantiles` lie; only the auxiliary loss depends on it
_MAX_REACH = 4096  # entries of a row on either side; a density that leaves mass beyond escapes

_OLD_NAMES = (
    (re.compile(r"(^|\.)_matri(?:x|ces\.)(\d+)$"), r"\1matrices.\2"),
    (re.compile(r"(^|\.)_bias(?:es\.)?(\d+)$"), r"\1biases.\2"),
    (re.compile(r"(^|\.)_factors?\.?(\d+)$"), r"\1factors.\2"),
)


def rename_old_keys(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``state`` with the entropy models' names of CompressAI 1.2.8.

    What is ``matrices.0``, ``biases.0`` and ``factors.0`` now was ``_matrix0``, ``_bias0`` and
    ``_factor0`` for long, and ``_matrices.0``, ... in the first versions. Other keys stay.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, name in _OLD_NAMES:
            key = pattern.sub(name, key)
        renamed[key] = value
    return renamed


class Pmfs(NamedTuple):
    """Probabilities of integer symbols, a row each table; what `Tables.from_pmfs` takes.

    ``rows``: float64 arrays; entry k of row i is the probability of the symbol offsets[i] + k.
    ``offsets``: int32 (T,). ``tail_masses``: float64 (T,), the probability outside each row.
    """

    rows: list[np.ndarray]
    offsets: np.ndarray
    tail_masses: np.ndarray

    def tables(self, precision: int) -> Tables:
        """Integer tables of so many bits."""
        return Tables.from_pmfs(
            self.rows, offsets=self.offsets, precision=precision, tail_masses=self.tail_masses
        )


class _AtLeast(torch.autograd.Function):
    """max(x, bound) whose gradient still passes where it would lift x over the bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.maximum(x, bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, bound = ctx.saved_tensors
        return grad * ((x >= bound) | (grad < 0)), None


class LowerBound(nn.Module):
    """``max(x, bound)``; below the bound only gradients that raise x pass."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return torch.maximum(x, self.bound)
        return _AtLeast.apply(x, self.bound)


class EntropyModel(nn.Module):
    """What both models share: quantization, the likelihood's floor, the tables' buffers."""

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor
    # These take the shape that a state dict gives them: empty before CompressAI's update().
    _sized_by_file: tuple[str, ...] = ("_offset", "_quantized_cdf", "_cdf_length")

    def __init__(self) -> None:
        super().__init__()
        self.likelihood_lower_bound = LowerBound(LIKELIHOOD_FLOOR)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in self._sized_by_file:
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(stored, Tensor) and stored.shape != own.shape:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def quantize(self, x: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        """Quantize ``x`` (any shape; ``means`` broadcasts to it).

        Args:
            mode: ``"symbols"``: round(x - means) as int32, what is coded. ``"dequantize"``:
                round(x - means) + means. ``"noise"``: x plus uniform noise in [-1/2, 1/2),
                whatever the means.

        Raises:
            OptionError: the mode is none of these.
        """
        if mode == "noise":
            return x + torch.empty_like(x).uniform_(-0.5, 0.5)
        if mode not in ("symbols", "dequantize"):
            raise OptionError(f"mode is {mode!r}; give 'symbols', 'dequantize' or 'noise'")
        rounded = torch.round(x if means is None else x - means)
        if mode == "symbols":
            return rounded.to(torch.int32)
        return rounded if means is None else rounded + means

    def pmfs(self, tail_mass: float = TABLE_TAIL) -> Pmfs:
        """Probabilities of the symbols of every row in float64, ``tail_mass`` left outside."""
        raise NotImplementedError

    @property
    def has_stored_tables(self) -> bool:
        """Whether a state dict brought tables with it."""
        return self._quantized_cdf.numel() > 0

    def stored_tables(self) -> Tables:
        """The tables of the state dict exactly, at 16 bits.

        Raises:
            OptionError: there are none, or they are not tables.
        """
        if not self.has_stored_tables:
            raise OptionError("no tables are stored in this model; compute them with pmfs()")
        return Tables.from_cdfs(
            self._quantized_cdf.cpu().numpy(),
            self._cdf_length.cpu().numpy(),
            self._offset.cpu().numpy(),
            STORED_PRECISION,
        )

    def tables(self, precision: int = STORED_PRECISION) -> Tables:
        """Integer tables: the stored ones if there are any and ``precision`` is theirs (16).

        Otherwise they are computed from the parameters in float64 and quantized to ``precision``
        bits. That goes through exp, tanh and erfc, whose last bits differ between machines:
        compute them once, where a bundle is made, and keep them.
        """
        if self.has_stored_tables and precision == STORED_PRECISION:
            return self.stored_tables()
        return self.pmfs().tables(precision)


class EntropyBottleneck(EntropyModel):
    """A learned density for each channel, the same at every position.

    The cumulative distribution is the sigmoid of a small monotone network. Symbols are
    round(x - median): the medians are real numbers, and the tables hold what lies around them.

    Args:
        channels: C of the tensors (N, C, ...).
        filters: hidden widths of the network.
        init_scale: width of the densities before training.

    Attributes:
        quantiles: (C, 1, 3): lower tail, median and upper tail of each channel, as last trained.
    """

    target: Tensor

    def __init__(
        self, channels: int, filters: tuple[int, ...] = (3, 3, 3, 3), init_scale: float = 10.0
    ) -> None:
        super().__init__()
        self.channels = int(channels)
        self.filters = tuple(int(width) for width in filters)
        widths = (1, *self.filters, 1)
        layer_scale = init_scale ** (1 / (len(widths) - 1))
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for fan_in, fan_out in itertools.pairwise(widths):
            start = math.log(math.expm1(1 / layer_scale / fan_out))  # softplus undoes it
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, fan_out, 1) - 0.5))
        for width in self.filters:
            self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))
        spread = torch.tensor([-init_scale, 0.0, init_scale])
        self.quantiles = nn.Parameter(spread.repeat(channels, 1, 1))
        tail_logit = math.log(2 / _TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-tail_logit, 0.0, tail_logit]))

    @property
    def medians(self) -> Tensor:
        """(C,): what is taken off before rounding and added back after."""
        return self.quantiles[:, 0, 1]

    def symbols(self, x: Tensor) -> Tensor:
        """round(x - median) of ``x (N, C, ...)``, int32: what is coded."""
        return self.quantize(x, "symbols", self._shaped_medians(x))

    def dequantize(self, symbols: Tensor) -> Tensor:
        """Symbols ``(N, C, ...)`` plus the medians, in the medians' dtype."""
        return symbols + self._shaped_medians(symbols)

    def build_indexes(self, shape: tuple[int, ...]) -> Tensor:
        """int32 of ``shape (N, C, ...)``: the channel's number, which is its table's."""
        rows = torch.arange(self.channels, dtype=torch.int32, device=self.quantiles.device)
        return rows.reshape(-1, *[1] * (len(shape) - 2)).expand(shape)

    def _shaped_medians(self, x: Tensor) -> Tensor:
        return self.medians.detach().reshape(-1, *[1] * (x.ndim - 2))

    def _logits(self, x: Tensor, double: bool = False, detach: bool = False) -> Tensor:
        """Logit of the cumulative distribution at ``x (C, 1, n)``, in float64 if ``double``."""

        def parameter(value: Tensor) -> Tensor:
            value = value.detach() if detach or double else value
            return value.double() if double else value

        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.baddbmm(parameter(bias), F.softplus(parameter(matrix)), x)
            if i < len(self.factors):
                x = x + torch.tanh(parameter(self.factors[i])) * torch.tanh(x)
        return x

    def likelihood(self, x: Tensor) -> Tensor:
        """Probability of the unit bin around each of ``x (N, C, ...)``, at least 1e-9."""
        # The network wants the channel first; every position of a channel is alike to it.
        by_channel = x.transpose(0, 1)
        values = by_channel.reshape(self.channels, 1, -1)
        lower, upper = torch.sigmoid(
            self._logits(torch.cat((values - 0.5, values + 0.5), dim=2))
        ).chunk(2, dim=2)
        bounded = self.likelihood_lower_bound(upper - lower)
        return bounded.reshape(by_channel.shape).transpose(0, 1).contiguous()

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return (x_hat, likelihood) of ``x (N, C, ...)``, both of its shape.

        ``x_hat`` is round(x - median) + median, or x plus uniform noise when training
        (``training`` defaults to the module's mode).
        """
        noisy = self.training if training is None else training
        medians = self.medians.reshape(-1, *[1] * (x.ndim - 2))
        outputs = self.quantize(x, "noise" if noisy else "dequantize", medians)
        return outputs, self.likelihood(outputs)

    def loss(self) -> Tensor:
        """The auxiliary loss that pulls ``quantiles`` to the density's tails and median."""
        return (self._logits(self.quantiles, detach=True) - self.target).abs().sum()

    @torch.no_grad()
    def pmfs(self, tail_mass: float = TABLE_TAIL) -> Pmfs:
        """Row c: the probabilities of round(x - median) in channel c.

        The reach of a row comes from the density itself, not from ``quantiles``: those may be as
        the auxiliary loss left them.
        """
        medians = self.medians.double().cpu()
        model = self if self.quantiles.device.type == "cpu" else _on_cpu(self)

        def cumulative(steps: Tensor, side: int) -> Tensor:
            """Mass beyond the medians plus ``steps (C, n)``: below (side 1) or above (-1)."""
            points = (medians[:, None] + steps)[:, None, :]
            return torch.sigmoid(side * model._logits(points, double=True))[:, 0, :]

        grid = torch.arange(_MAX_REACH + 1, dtype=torch.float64)[None] + 0.5
        below = cumulative(-grid, 1)
        above = cumulative(grid, -1)
        reach_down, reach_up = (
            (mass > tail_mass / 2).sum(dim=1).clamp(max=_MAX_REACH).tolist()
            for mass in (below, above)
        )
        rows, tails = [], []
        for c, (down, up) in enumerate(zip(reach_down, reach_up, strict=True)):
            # Differences of the tail on the symbol's own side keep their digits.
            left = below[c, :down] - below[c, 1 : down + 1]
            right = above[c, :up] - above[c, 1 : up + 1]
            middle = (1.0 - below[c, :1] - above[c, :1]).clamp(min=0.0)
            rows.append(torch.cat((left.flip(0), middle, right)).clamp(min=0.0).numpy())
            tails.append(float(below[c, down] + above[c, up]))
        return Pmfs(rows, -np.array(reach_down, np.int32), np.array(tails))


class GaussianConditional(EntropyModel):
    """A Gaussian of predicted scale (and mean) for every latent, integrated over unit bins.

    Args:
        scale_bound: scales below it count as it.
    """

    scale_table: Tensor
    scale_bound: Tensor
    _sized_by_file = (*EntropyModel._sized_by_file, "scale_table")

    def __init__(self, scale_bound: float = SCALE_MIN) -> None:
        super().__init__()
        self.lower_bound_scale = LowerBound(scale_bound)
        self.register_buffer("scale_table", torch.empty(0))
        self.register_buffer("scale_bound", torch.tensor([float(scale_bound)]))

    def scales(self) -> Tensor:
        """float32 (T,): the state dict's scale table; the published codecs' if it has none."""
        if self.scale_table.numel() > 0:
            return self.scale_table
        return default_scale_table().to(self.scale_table.device)

    def likelihood(self, x: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Probability of the unit bin around ``x`` under (means, scales), at least 1e-9."""
        scales = self.lower_bound_scale(scales)
        distance = torch.abs(x if means is None else x - means)
        # The far side of the bin's mass is small; erfc of a positive argument keeps its digits.
        near, far = (0.5 * torch.erfc((distance + edge) / scales * 2**-0.5) for edge in (-0.5, 0.5))
        return self.likelihood_lower_bound(near - far)

    def forward(
        self,
        x: Tensor,
        scales: Tensor,
        means: Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (x_hat, likelihood) of ``x``, ``scales`` and ``means`` of one shape.

        ``x_hat`` is round(x - means) + means, or x plus uniform noise when training
        (``training`` defaults to the module's mode).
        """
        noisy = self.training if training is None else training
        outputs = self.quantize(x, "noise" if noisy else "dequantize", means)
        return outputs, self.likelihood(outputs, scales, means)

    def build_indexes(self, scales: Tensor) -> Tensor:
        """int32 of the shape of ``scales``: the first row at least as wide (the last, if none)."""
        scales = self.lower_bound_scale(scales).contiguous()
        edges = self.scales()[:-1].to(scales.dtype)
        return torch.bucketize(scales, edges, out_int32=True)

    def pmfs(self, tail_mass: float = TABLE_TAIL) -> Pmfs:
        """Row i: the probabilities of round(x - mean) at the i-th scale."""
        sigmas = self.scales().double().tolist()
        rows, offsets = pmf_rows(sigmas, tail_mass, _MAX_REACH)
        tails = [
            2.0 * upper_tail((0.5 - offset) / sigma)
            for offset, sigma in zip(offsets.tolist(), sigmas, strict=True)
        ]
        return Pmfs(rows, offsets, np.array(tails))


def default_scale_table() -> Tensor:
    """float32 (64,): the published codecs' scales, geometric from 0.11 to 256."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
    return torch.tensor([SCALE_MIN * math.exp(i * step) for i in range(SCALE_LEVELS)])


def _on_cpu(model: EntropyBottleneck) -> EntropyBottleneck:
    copy = EntropyBottleneck(model.channels, model.filters)
    copy.load_state_dict(model.state_dict())
    return copy
