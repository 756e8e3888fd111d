"""The reference path: h_s of published models, with the same bits on every machine.

Scale indexes and means must be equal where a stream is made and where it is read. A published h_s
has real weights and, in TIC, attention: it is no integer network. But floating point differs
between machines in two places only. IEEE 754 rounds every single operation (+ - * / sqrt,
rounding to a whole number) correctly, the same everywhere; what libraries, threads and processors
do differently is the *order* in which sums are added up, and the last bits of exp and erf. So here

- what is summed lies on grids so coarse that every sum is exact: weights and activations are
  rounded to multiples of powers of two such that no partial sum, in any order, with fused
  multiply-adds or without, needs more than the 53 bits of a float64;
- everything else is elementwise and made of correctly rounded operations, one numpy call each, so
  that no compiler can contract two of them into one; exp and the Gaussian's integral are
  polynomials.

Weights keep up to 24 bits and activations 20 to 24 of their largest, so the result is as good as
that of the float32 in which these models were trained. There is nothing left for encoder and
decoder to agree about, so no side information is sent (Tian et al., "Towards real-time neural video
codec for cross-platform application using calibration information", arXiv:2309.11276, send some;
exact sums are the idea of Ballé et al., "Integer networks for data compression with
latent-variable models", ICLR 2019, with 53 bits instead of 24 or 32).

docs/reference_synthesis.md is the normative description. numpy is all that this needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from icmh_rt.errors import BundleError

EXACT_BITS = 53  # of a float64's significand
_MAX_WEIGHT_BITS = 24  # of the float32 that published weights are
_NORM_BITS = 20
_SMALLEST = -200  # exponent that stands for zero: far above where float64 loses bits
_LEAKY_SLOPE = 0.01
_NORM_EPSILON = 1e-5
_PROBABILITY_BITS = 30

State = Mapping[str, np.ndarray]


class Layer(Protocol):
    """A stage of h_s: float64 ``(h, w, C)`` to float64 ``(h', w', C')``."""

    def __call__(self, x: np.ndarray) -> np.ndarray: ...


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` for arguments whose sums are exact. Here and in `_total` the order of additions is
    a library's; tests put others in their place.
    """
    return np.matmul(a, b)


def _total(x: np.ndarray) -> np.ndarray:
    """Sums over the last axis, which is kept, for values whose sums are exact."""
    return x.sum(axis=-1, keepdims=True)


# -- grids -----------------------------------------------------------------------------------------


def _exponent(values: np.ndarray) -> int:
    """The smallest E, at least -200, with every ``|value| < 2**E``."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return max(math.frexp(largest)[1], _SMALLEST)


def _snap(values: np.ndarray, bits: int) -> np.ndarray:
    """``values`` rounded to multiples of ``2**(E - bits)``, E their exponent: 2**bits steps at most
    on either side of zero.
    """
    step = math.ldexp(1.0, _exponent(values) - bits)  # a power of two: neither line below rounds
    snapped = np.divide(values, step)
    np.rint(snapped, out=snapped)
    np.multiply(snapped, step, out=snapped)
    return snapped


def _room(terms: int) -> int:
    """Bits that a sum of ``terms`` equal numbers has more than one of them."""
    return (terms - 1).bit_length()


class _Weights:
    """Weights on their grid, and the bits that their input may have.

    With weights below 2**E, b bits of weight and an L1 norm of an output's weights below 2**F, a
    sum of products with inputs of c bits stays below 2**(F - E + b + c) steps of its grid. b and c
    are made equal, as far as b can use it.

    Args:
        weights: float64 ``(..., inputs, outputs)``.
        sums: of an array of that shape, the sums over what each output adds up.
    """

    def __init__(
        self, weights: np.ndarray, sums: Callable[[np.ndarray], Sequence[np.ndarray]]
    ) -> None:
        if not np.isfinite(weights).all():
            raise BundleError("h_s has a weight that is not finite: the checkpoint is damaged")
        exponent = _exponent(weights)
        # Rounded up to whole steps, so that these sums are exact as well: F may not depend on
        # their order either.
        steps = np.ceil(np.multiply(np.abs(weights), math.ldexp(1.0, _NORM_BITS - exponent)))
        longest = max(float(part.max()) for part in sums(steps))
        # 2**spread is 2**(F - E), twice, because snapping can lift the norm.
        spread = math.frexp(longest)[1] - _NORM_BITS + 1
        bits = min((EXACT_BITS - spread) // 2, _MAX_WEIGHT_BITS)
        # Contiguous, or matmul would not use a BLAS.
        self.values = np.ascontiguousarray(_snap(weights, bits))
        self.input_bits = EXACT_BITS - spread - bits


# -- layers ----------------------------------------------------------------------------------------


class Linear:
    """``x @ weight.T + bias`` over the last axis. weight ``(outputs, inputs)``."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        matrix = weight.astype(np.float64).T
        self._weights = _Weights(matrix, lambda steps: [steps.sum(axis=0)])
        self._bias = None if bias is None else bias.astype(np.float64)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = _product(_snap(x, self._weights.input_bits), self._weights.values)
        return y if self._bias is None else np.add(y, self._bias, out=y)


class Convolution:
    """A convolution of stride 1 that keeps the size. weight ``(outputs, inputs, k, k)``, k odd."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        taps = weight.astype(np.float64).transpose(2, 3, 1, 0)
        self._kernel, self.outputs = taps.shape[0], taps.shape[-1]
        self._weights = _Weights(taps, lambda steps: [steps.sum(axis=(0, 1, 2))])
        self._bias = None if bias is None else bias.astype(np.float64)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        height, width, channels = x.shape
        border = self._kernel // 2
        x = np.pad(_snap(x, self._weights.input_bits), ((border, border), (border, border), (0, 0)))
        y = np.zeros((height, width, self.outputs))
        for i in range(self._kernel):
            for j in range(self._kernel):
                part = np.ascontiguousarray(x[i : i + height, j : j + width])
                product = _product(part.reshape(-1, channels), self._weights.values[i, j])
                y += product.reshape(y.shape)
        return y if self._bias is None else np.add(y, self._bias, out=y)


class Deconvolution:
    """A transposed convolution to ``stride`` times the size. weight ``(inputs, outputs, k, k)``.

    As the published codecs have it: padding k // 2, output padding ``stride - 1``.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, stride: int) -> None:
        taps = weight.astype(np.float64).transpose(2, 3, 0, 1)
        self._kernel, self._stride, self.outputs = taps.shape[0], stride, taps.shape[-1]
        phases = range(min(stride, self._kernel))
        self._weights = _Weights(
            taps,
            # An output adds up the taps of one phase only.
            lambda steps: [
                steps[i::stride, j::stride].sum(axis=(0, 1, 2)) for i in phases for j in phases
            ],
        )
        self._bias = None if bias is None else bias.astype(np.float64)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        (height, width, channels), k, s = x.shape, self._kernel, self._stride
        x = _snap(x, self._weights.input_bits).reshape(-1, channels)
        border = k // 2
        canvas = np.zeros((s * height + k, s * width + k, self.outputs))
        for i in range(k):
            for j in range(k):
                product = _product(x, self._weights.values[i, j]).reshape(
                    height, width, self.outputs
                )
                canvas[i : i + s * height : s, j : j + s * width : s] += product
        y = canvas[border : border + s * height, border : border + s * width]
        return np.ascontiguousarray(y) if self._bias is None else np.add(y, self._bias)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0.0, x, np.multiply(x, _LEAKY_SLOPE))


class LayerNorm:
    """Over the last axis; weight and bias ``(C,)``."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self._weight, self._bias = weight.astype(np.float64), bias.astype(np.float64)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        count = x.shape[-1]
        room = _room(count)
        mean = np.divide(_total(_snap(x, EXACT_BITS - room)), count)
        x = np.subtract(x, mean)
        snapped = _snap(x, (EXACT_BITS - room) // 2)
        variance = np.divide(_total(np.multiply(snapped, snapped)), count)
        deviation = np.sqrt(np.add(variance, _NORM_EPSILON))
        return np.add(np.multiply(np.divide(x, deviation), self._weight), self._bias)


class WindowAttention:
    """Multi-head self-attention inside windows, with a bias by relative position.

    Args:
        state, prefix: ``qkv``, ``proj`` and ``relative_position_bias_table`` (positions, heads).
        window: side of a window. shift: of the windows' grid, cyclic and unmasked as published.
    """

    def __init__(self, state: State, prefix: str, window: int, shift: int) -> None:
        self._window, self._shift = window, shift
        self._qkv = Linear(state[prefix + "qkv.weight"], state[prefix + "qkv.bias"])
        self._proj = Linear(state[prefix + "proj.weight"], state[prefix + "proj.bias"])
        table = state[prefix + "relative_position_bias_table"].astype(np.float64)
        self._heads = table.shape[1]
        row, column = np.divmod(np.arange(window * window), window)
        rows = row[:, None] - row[None, :] + window - 1
        columns = column[:, None] - column[None, :] + window - 1
        if table.shape[0] != (2 * window - 1) ** 2:
            raise BundleError(
                f"{prefix}relative_position_bias_table has {table.shape[0]} rows; windows of "
                f"{window} need {(2 * window - 1) ** 2}"
            )
        self._bias = table[rows * (2 * window - 1) + columns].transpose(2, 0, 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        height, width, channels = x.shape
        side, heads = self._window, self._heads
        size = channels // heads
        x = np.roll(x, (-self._shift, -self._shift), axis=(0, 1))
        x = x.reshape(height // side, side, width // side, side, channels)
        x = x.transpose(0, 2, 1, 3, 4).reshape(-1, side * side, channels)
        qkv = self._qkv(x).reshape(len(x), side * side, 3, heads, size).transpose(2, 0, 3, 1, 4)
        bits = (EXACT_BITS - _room(size)) // 2
        query = _snap(np.divide(qkv[0], math.sqrt(size)), bits)
        key = _snap(qkv[1], bits)
        attention = softmax(np.add(_product(query, key.transpose(0, 1, 3, 2)), self._bias))
        # Rows of it sum to one, so the sum is no longer than the longest value.
        attention = _on_grid(attention, _PROBABILITY_BITS)
        value = _snap(qkv[2], EXACT_BITS - _PROBABILITY_BITS - 1)
        mixed = _product(attention, value).transpose(0, 2, 1, 3).reshape(-1, side * side, channels)
        y = self._proj(mixed).reshape(height // side, width // side, side, side, channels)
        y = y.transpose(0, 2, 1, 3, 4).reshape(height, width, channels)
        return np.roll(y, (self._shift, self._shift), axis=(0, 1))


class SwinBlocks:
    """Residual Swin blocks with a residual around them all.

    Args:
        state, prefix: the blocks' tensors, ``blocks.0.norm1.weight`` and so on.
        window: side of a window. shifts: of each block's windows.
    """

    def __init__(self, state: State, prefix: str, window: int, shifts: Sequence[int]) -> None:
        self._blocks: list[tuple[Any, ...]] = []
        for number, shift in enumerate(shifts):
            at = f"{prefix}blocks.{number}."
            norms = [
                LayerNorm(state[f"{at}{name}.weight"], state[f"{at}{name}.bias"])
                for name in ("norm1", "norm2")
            ]
            linears = [
                Linear(state[f"{at}mlp.{name}.weight"], state[f"{at}mlp.{name}.bias"])
                for name in ("fc1", "fc2")
            ]
            attention = WindowAttention(state, at + "attn.", window, shift)
            self._blocks.append((*norms, *linears, attention))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = x
        for norm1, norm2, fc1, fc2, attention in self._blocks:
            y = np.add(y, attention(norm1(y)))
            y = np.add(y, fc2(gelu(fc1(norm2(y)))))
        return np.add(y, x)


# -- functions -------------------------------------------------------------------------------------


def _on_grid(values: np.ndarray, bits: int) -> np.ndarray:
    """``values`` of at most 1 rounded to multiples of ``2**-bits``."""
    scale = math.ldexp(1.0, bits)
    return np.divide(np.rint(np.multiply(values, scale)), scale)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = exp(np.subtract(x, x.max(axis=-1, keepdims=True)))
    powers = _on_grid(powers, EXACT_BITS - _room(x.shape[-1]) - 1)
    return np.divide(powers, _total(powers))


_LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has 32 bits, so that its product with a small integer is exact.
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_EXP_TERMS = [1.0 / math.factorial(n) for n in range(12, -1, -1)]


def exp(x: np.ndarray) -> np.ndarray:
    """e to the power of ``x``, which is at most 0; below -60 as -60. Accurate to 1e-15."""
    x = np.maximum(x, -60.0)
    power = np.rint(np.multiply(x, _LOG2_E))
    rest = np.subtract(x, np.multiply(power, _LN2_HIGH))
    rest = np.subtract(rest, np.multiply(power, _LN2_LOW))
    result = np.full_like(x, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        np.multiply(result, rest, out=result)
        np.add(result, term, out=result)
    return np.ldexp(result, power.astype(np.int32))


_NODES_A_UNIT = 32
_LAST_NODE = 8 * _NODES_A_UNIT
_SERIES_BITS = 320  # fixed point; the largest term of the series at 8 has 43 bits before the point


@cache
def _gaussian_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Density and integral of the standard normal at -8, -8 + 1/32, ..., 8; both correctly rounded
    but for the constant 1 / sqrt(2 pi).

    By their power series in integers: no library's exp or erf has a say.
    """
    one = 1 << _SERIES_BITS
    densities, halves = [], []
    for node in range(_LAST_NODE + 1):
        density = half = 0
        # (-x²/2)^n / n! at x = node / 32, and the same times x / (2n + 1), its integral.
        term, n = one, 0
        while term:
            density += term
            half += term * node // ((2 * n + 1) * _NODES_A_UNIT)
            n += 1
            term = -(term * node * node // (2 * n * _NODES_A_UNIT**2))
            if term == -1:  # where rounding down a negative term ends
                break
        densities.append(density / one)
        halves.append(half / one)
    scale = 0.3989422804014327  # 1 / sqrt(2 pi)
    right = np.array(densities) * scale
    side = np.array(halves) * scale
    return np.append(right[:0:-1], right), np.append(0.5 - side[:0:-1], 0.5 + side)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Integral of the standard normal up to ``x``; beyond -8 and 8 as there. Accurate to 1e-12.

    Taylor's series of degree 5 around the nearest node.
    """
    density, integral = _gaussian_nodes()
    x = np.clip(x, -8.0, 8.0)
    node = np.rint(np.multiply(x, float(_NODES_A_UNIT)))
    t = np.divide(node, float(_NODES_A_UNIT))
    d = np.subtract(x, t)
    row = node.astype(np.intp) + _LAST_NODE
    tt = np.multiply(t, t)
    # The density's derivatives are Hermite polynomials of t times the density.
    h3 = np.multiply(np.subtract(tt, 3.0), t)
    h4 = np.add(np.multiply(np.subtract(tt, 6.0), tt), 3.0)
    series = np.divide(h4, 120.0)
    for coefficient in (np.divide(h3, -24.0), np.divide(np.subtract(tt, 1.0), 6.0), t * -0.5, 1.0):
        np.multiply(series, d, out=series)
        np.add(series, coefficient, out=series)
    np.multiply(series, d, out=series)
    np.multiply(series, density[row], out=series)
    return np.add(series, integral[row])


def gelu(x: np.ndarray) -> np.ndarray:
    return np.multiply(x, normal_cdf(x))


# -- networks --------------------------------------------------------------------------------------


class ReferenceSynthesis:
    """h_s of one model at one width.

    Args:
        layers: what it consists of.
        scales: float ``(T,)``, rising: the scale table. A scale's index is the number of entries,
            the last one left out, that lie below it.
        latent_channels: M. ``layers`` give M scales, or M scales and M means.
    """

    def __init__(self, layers: Sequence[Layer], scales: np.ndarray, latent_channels: int) -> None:
        self._layers = tuple(layers)
        self._edges = scales.astype(np.float64)[:-1]
        self.latent_channels = latent_channels

    def run(self, z_hat: np.ndarray) -> np.ndarray:
        """h_s of ``(hz, wz, Z)``: float64 ``(h, w, M or 2M)``, the same bits everywhere."""
        x = z_hat.astype(np.float64)
        for layer in self._layers:
            x = layer(x)
        return x

    def predict(self, z_hat: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Means float32 ``(h, w, M)``, None where they are zero, and scale indexes uint8."""
        m = self.latent_channels
        parameters = self.run(z_hat)
        indexes = np.searchsorted(self._edges, parameters[..., :m]).astype(np.uint8)
        if parameters.shape[-1] == m:
            return None, indexes
        # The sign of a zero can depend on the order of additions; adding zero takes it away.
        return np.add(parameters[..., m:].astype(np.float32), np.float32(0.0)), indexes


def build(family: str, state: State, channels: int, scales: np.ndarray) -> ReferenceSynthesis:
    """The reference path of a published model.

    Args:
        family: ``tic``, ``tic-sfma``, ``slimmable-hyper``, ``bmshj2018-hyperprior`` or
            ``mbt2018-mean``.
        state: its state arrays; those of h_s are used.
        channels: of the latent, M; of a slimmable model, at the width that is wanted.
        scales: float ``(T,)``, at most 256: the scale table.

    Raises:
        BundleError: an array is missing or of another form, or is not finite.
    """

    def pair(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        return state[name + ".weight"], state.get(name + ".bias")

    def slim(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        weight, bias = pair(name)
        return weight[:channels, :channels], None if bias is None else bias[:channels]

    try:
        if family in ("tic", "tic-sfma"):
            layers: list[Layer] = [
                SwinBlocks(state, "h_s0.residual_group.", 4, (0, 0)),
                Deconvolution(*pair("h_s1"), 2),
                SwinBlocks(state, "h_s2.residual_group.", 4, (0, 2)),
                Deconvolution(*pair("h_s3"), 2),
            ]
        elif family == "slimmable-hyper":
            layers = [
                Deconvolution(*slim("h_s.0"), 2),
                leaky_relu,
                Deconvolution(*slim("h_s.2"), 2),
                leaky_relu,
                Deconvolution(*slim("h_s.4"), 1),
            ]
        else:
            activation = {"bmshj2018-hyperprior": relu, "mbt2018-mean": leaky_relu}[family]
            layers = [
                Deconvolution(*pair("h_s.0"), 2),
                activation,
                Deconvolution(*pair("h_s.2"), 2),
                activation,
                Convolution(*pair("h_s.4")),
            ]
            if family == "bmshj2018-hyperprior":
                layers.append(relu)
    except KeyError as error:
        raise BundleError(f"model of family {family!r} lacks {error.args[0]!r}") from None
    # The last layer with weights; a ReLU may follow.
    outputs = next(layer for layer in reversed(layers) if isinstance(layer, _WEIGHTED)).outputs
    wanted = channels if family in ("slimmable-hyper", "bmshj2018-hyperprior") else 2 * channels
    if outputs != wanted:
        raise BundleError(
            f"h_s of family {family!r} gives {outputs} channels; a latent of {channels} needs "
            f"{wanted}"
        )
    return ReferenceSynthesis(layers, scales, channels)


_WEIGHTED = (Convolution, Deconvolution)
