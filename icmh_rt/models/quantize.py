"""Turns a trained float hyper-synthesis into an `IntegerHyperSynthesis`; numpy only.

The budget is 24 bits for every sum, shared between weights and activations. How many of them a
hidden map gets is chosen from calibration statistics so that the two rounding noises, of
activations and of weights, are equal (`_best_range`); then every row's scale is the largest for
which the proof holds. docs/integer_hyper_synthesis.md derives the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from icmh_rt.errors import BundleError
from icmh_rt.models.integer_network import (
    ACCUMULATOR_LIMIT,
    KINDS,
    MAX_SHIFT,
    IntegerHyperSynthesis,
    IntegerLayer,
    apply_weight,
    pixel_shuffle,
)

_INT16_MAX = 2**15 - 1
# Hidden maps use 0..A with A in this range, times up to sqrt(2); see _best_range.
_SMALLEST_RANGE, _LARGEST_RANGE = 127, 4095
# Head output that calibration's largest mean is mapped to, times up to sqrt(2): with a multiplier
# of 11 bits the product stays below 2**24.
_MEAN_RANGE = 5792


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """A trained layer: weight float64 ``(O, C)``, ``(O, 3, 3, C)`` or ``(C, 3, 3)``, bias ``(O,)``.

    The order is convolution, bias, ReLU if ``relu``, pixel shuffle by 2 if ``shuffle``.
    """

    name: str
    kind: str
    weight: np.ndarray
    bias: np.ndarray
    relu: bool = True
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BundleError(f"layer {self.name!r} is a {self.kind!r}, not {', '.join(KINDS)}")
        for key in ("weight", "bias"):
            array = np.asarray(getattr(self, key), np.float64)
            if not np.isfinite(array).all():
                raise BundleError(f"layer {self.name!r}: {key} has values that are not finite")
            object.__setattr__(self, key, array)

    @classmethod
    def from_torch_layout(
        cls,
        name: str,
        kind: str,
        weight: np.ndarray,
        bias: np.ndarray,
        relu: bool = True,
        shuffle: bool = False,
    ) -> FloatLayer:
        """From torch's layout: weight ``(O, C[, 1, 1])``, ``(O, C, 3, 3)`` or ``(C, 1, 3, 3)``."""
        weight = np.asarray(weight, np.float64)
        if kind == "conv1x1":
            weight = weight.reshape(weight.shape[:2])
        elif kind == "conv3x3":
            weight = weight.transpose(0, 2, 3, 1)
        elif kind == "depthwise3x3":
            weight = weight.reshape(len(weight), 3, 3)
        return cls(name, kind, weight, bias, relu, shuffle)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Float64 evaluation, ``(H, W, C)`` -> ``(H, W, O)`` or, shuffled, ``(2H, 2W, O / 4)``."""
        y = apply_weight(self.kind, self.weight, x) + self.bias
        if self.relu:
            y = np.maximum(y, 0.0)
        return pixel_shuffle(y) if self.shuffle else y


@dataclass
class ChannelStatistics:
    """Running statistics of one feature map's channels, float64 ``(C,)`` each."""

    maximum: np.ndarray  # of the magnitude
    total: np.ndarray
    total_square: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def update(self, x: np.ndarray) -> None:
        """Take in a map ``(H, W, C)``."""
        x = x.reshape(-1, x.shape[-1])
        self.maximum = np.maximum(self.maximum, np.abs(x).max(0))
        self.total = self.total + x.sum(0)
        self.total_square = self.total_square + (x * x).sum(0)
        self.count += len(x)

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(self.count, 1)

    @property
    def mean_square(self) -> np.ndarray:
        return self.total_square / max(self.count, 1)


@dataclass
class Calibration:
    """Statistics of the network's input, of each trunk layer's output and of both heads'."""

    input: ChannelStatistics
    trunk: list[ChannelStatistics]
    mean: ChannelStatistics
    scale: ChannelStatistics


def evaluate(
    trunk: Sequence[FloatLayer], mean_head: FloatLayer, scale_head: FloatLayer, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The float network: dequantized z ``(H, W, Z)`` -> ungained mean, real-valued scale index."""
    for layer in trunk:
        x = layer(x)
    return mean_head(x), scale_head(x)


def calibrate(
    trunk: Sequence[FloatLayer],
    mean_head: FloatLayer,
    scale_head: FloatLayer,
    inputs: Iterable[np.ndarray],
) -> Calibration:
    """Run the float network over dequantized hyper-latents and collect `Calibration`.

    Args:
        inputs: float ``(H, W, Z)`` each (``z * z_step``), over the whole quality range; a few dozen
            images of ordinary content are enough.

    Raises:
        BundleError: no inputs, or values that are not finite.
    """
    result: Calibration | None = None
    for x in inputs:
        x = np.asarray(x, np.float64)
        if not np.isfinite(x).all():
            raise BundleError("a calibration input has values that are not finite")
        if result is None:
            result = Calibration(
                input=ChannelStatistics.empty(x.shape[-1]),
                trunk=[
                    ChannelStatistics.empty(len(layer.weight) // (4 if layer.shuffle else 1))
                    for layer in trunk
                ],
                mean=ChannelStatistics.empty(len(mean_head.weight)),
                scale=ChannelStatistics.empty(len(scale_head.weight)),
            )
        result.input.update(x)
        for layer, statistics in zip(trunk, result.trunk, strict=True):
            x = layer(x)
            statistics.update(x)
        result.mean.update(mean_head(x))
        result.scale.update(scale_head(x))
    if result is None:
        raise BundleError("calibration needs at least one input")
    return result


def quantize_hyper_synthesis(
    trunk: Sequence[FloatLayer],
    mean_head: FloatLayer,
    scale_head: FloatLayer,
    calibration: Calibration,
    *,
    z_step: np.ndarray,
    gain: np.ndarray,
    log_scale_step: float,
    scales: int,
    headroom: float = 1.25,
    mean_bits: int = 6,
    index_bits: int = 6,
) -> IntegerHyperSynthesis:
    """Quantize a float hyper-synthesis and its quality tables, and prove the result.

    Args:
        trunk: layers both heads share.
        mean_head: linear conv1x1 giving the *ungained* mean.
        scale_head: linear conv1x1 giving ``log(sigma / sigma_min) / log_scale_step``, ungained.
        calibration: from `calibrate`.
        z_step: ``(Q, Z)``, > 0: the network's float input is ``z * z_step[quality - 1]``.
        gain: ``(Q, M)``, > 0: gained latent = gain * ungained latent.
        log_scale_step: natural log of the ratio between neighbouring scales of the table.
        scales: rows of the scale table, at most 256.
        headroom: how far activations may exceed calibration's maxima before they saturate.
        mean_bits: means come in units of ``2**-mean_bits``.
        index_bits: scale indexes are rounded once, from ``2**-index_bits`` steps.

    Raises:
        BundleError: tables of another shape or range, values that are not finite, or a network that
            no scaling brings under the bound.
    """
    inputs = _input_channels(trunk[0] if trunk else mean_head)
    outputs = len(mean_head.weight)
    z_step = _checked_table("z_step", z_step, inputs)
    gain = _checked_table("gain", gain, outputs)
    if len(z_step) != len(gain):
        raise BundleError(f"z_step has {len(z_step)} qualities, gain has {len(gain)}")
    if not 0 < log_scale_step < math.inf:
        raise BundleError(f"log_scale_step is {log_scale_step}, not a positive number")

    heads = [(mean_head, calibration.mean), (scale_head, calibration.scale)]
    chain = list(zip(trunk, calibration.trunk, strict=True))

    # A channel that calibration never saw in use gets the range of one symbol at its finest step,
    # but never more than the others have: training shuts channels off by letting their step grow
    # without limit, and the accumulator's budget is divided by the reach.
    seen = calibration.input.maximum
    unseen = np.minimum(z_step.min(0), seen.max()) if seen.max() > 0 else z_step.min(0)
    reach = headroom * np.maximum(seen, unseen)
    consumers = [chain[0]] if chain else heads
    input_limit = _best_range(calibration.input, reach, consumers)
    x = _Activation(
        step=reach / input_limit,
        low=np.full(inputs, -input_limit),
        high=np.full(inputs, input_limit),
        mean=calibration.input.mean,
    )
    # Where a step exceeds the reach, one symbol saturates: no calibration input had one there.
    ratio = np.minimum(z_step / x.step, input_limit + 1)
    z_multiplier, z_shift = _input_table(ratio, input_limit)

    layers = []
    for i, (layer, statistics) in enumerate(chain):
        consumers = [chain[i + 1]] if i + 1 < len(chain) else heads
        reach = headroom * statistics.maximum
        target = _best_range(statistics, reach, consumers)
        quantized, x = _quantize_hidden(layer, x, reach, target, statistics)
        layers.append(quantized)

    mean_layer, mean_step = _quantize_free(
        mean_head, x, headroom * calibration.mean.maximum, _MEAN_RANGE
    )
    scale_layer = _quantize_fixed(scale_head, x, np.full(outputs, 2.0**-index_bits))
    mean_multiplier, mean_shift = _mean_table(
        mean_step * gain * 2.0**mean_bits, mean_layer.high.astype(np.int64)
    )
    offset = np.rint(2.0**index_bits * np.log(gain) / log_scale_step)
    if np.abs(offset).max() >= 2**22:
        raise BundleError("gain spans more scale indexes than the integer network can hold")
    network = IntegerHyperSynthesis(
        trunk=tuple(layers),
        mean_head=mean_layer,
        scale_head=scale_layer,
        z_multiplier=z_multiplier,
        mean_multiplier=mean_multiplier,
        mean_shift=mean_shift,
        index_offset=offset.astype(np.int32),
        z_shift=z_shift,
        input_limit=input_limit,
        mean_bits=mean_bits,
        mean_limit=2**21 - 1,
        index_bits=index_bits,
        scales=scales,
    )
    network.prove()
    return network


@dataclass(frozen=True, eq=False)
class _Activation:
    """A quantized map: channel c stands for ``step[c] * integer``, integers in low..high."""

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray  # of the real values, for bias correction


def _input_channels(layer: FloatLayer) -> int:
    return layer.weight.shape[0 if layer.kind == "depthwise3x3" else -1]


def _checked_table(name: str, table: np.ndarray, width: int) -> np.ndarray:
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or table.shape[1] != width or not len(table):
        raise BundleError(f"{name} has shape {table.shape}, not (qualities, {width})")
    if not (np.isfinite(table).all() and table.min() > 0):
        raise BundleError(f"{name} has values that are not positive and finite")
    return table


def _by_input(layer: FloatLayer, per_channel: np.ndarray) -> np.ndarray:
    """``(C,)`` in a shape that multiplies the layer's weight."""
    return per_channel[:, None, None] if layer.kind == "depthwise3x3" else per_channel


def _row_sum(layer: FloatLayer, terms: np.ndarray) -> np.ndarray:
    return terms.sum(tuple(range(1, terms.ndim)))


def _real_bound(layer: FloatLayer, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest magnitude ``(O,)`` of any partial sum for real inputs in low..high."""
    at_low = layer.weight * _by_input(layer, np.minimum(low, 0))
    at_high = layer.weight * _by_input(layer, np.maximum(high, 0))
    top = _row_sum(layer, np.maximum(at_low, at_high)) + np.maximum(layer.bias, 0)
    bottom = _row_sum(layer, np.minimum(at_low, at_high)) + np.minimum(layer.bias, 0)
    return np.maximum(top, -bottom)


def _best_range(
    statistics: ChannelStatistics,
    reach: np.ndarray,
    consumers: Sequence[tuple[FloatLayer, ChannelStatistics]],
) -> int:
    """The integer range A of a map that lets its consumers see the least noise.

    With A steps to ``reach``, the inputs' rounding puts variance ``b / A**2`` into a row,
    ``b = sum (w * reach)**2 / 12``. An accumulator unit is then ``bound / 2**24`` real units, and
    the rounding of weights to it puts in ``a * A**2``, ``a = sum (rms / reach)**2 / 12 *
    (bound / 2**24)**2``. The total over rows, relative to each row's power, is least where both are
    equal: ``A**4 = sum b / sum a``.
    """
    relative = np.divide(
        statistics.mean_square, reach**2, out=np.zeros_like(reach), where=reach > 0
    )
    signed = statistics.total.min() < 0
    from_weights = from_inputs = 0.0
    for layer, output in consumers:
        power = np.repeat(output.mean_square, 4) if layer.shuffle else output.mean_square
        power = np.maximum(power, 1e-6 * power.max() + 1e-30)
        bound = _real_bound(layer, -reach if signed else np.zeros_like(reach), reach)
        noise = np.ones_like(layer.weight) * _by_input(layer, relative)
        from_weights += (_row_sum(layer, noise) * (bound / ACCUMULATOR_LIMIT) ** 2 / power).sum()
        from_inputs += (
            _row_sum(layer, (layer.weight * _by_input(layer, reach)) ** 2) / power
        ).sum()
    if not (from_weights > 0 and from_inputs > 0):
        return _LARGEST_RANGE
    best = (from_inputs / from_weights) ** 0.25
    return round(min(max(best, _SMALLEST_RANGE), _LARGEST_RANGE))


def _input_table(ratio: np.ndarray, input_limit: int) -> tuple[np.ndarray, int]:
    """Multipliers int32 ``(Q, Z)`` and shift for ``ratio`` integer input steps a symbol."""
    for shift in range(MAX_SHIFT, -1, -1):
        multiplier = np.rint(ratio * 2.0**shift)
        # Saturation must be reached within the proof's limit on the product.
        fits = input_limit * 2.0**shift + 2.0**shift + multiplier.max() < ACCUMULATOR_LIMIT
        if fits and multiplier.max() < ACCUMULATOR_LIMIT // 2:
            return multiplier.astype(np.int32), shift
    raise BundleError(
        f"z_step is up to {ratio.max():.3g} times the network's input step, too much for 2**24; "
        "calibrate with inputs of this size"
    )


def _mean_table(ratio: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers int32 and shifts uint8 ``(Q, M)`` for ``ratio`` output units a head unit."""
    multiplier = np.zeros(ratio.shape)
    chosen = np.full(ratio.shape, -1)
    for shift in range(MAX_SHIFT, -1, -1):
        candidate = np.rint(ratio * 2.0**shift)
        take = (chosen < 0) & (high * candidate + 2.0**shift < ACCUMULATOR_LIMIT)
        multiplier[take] = candidate[take]
        chosen[take] = shift
    if chosen.min() < 0:
        raise BundleError("gain times the largest mean exceeds what the integer mean can hold")
    return multiplier.astype(np.int32), chosen.astype(np.uint8)


def _room(layer: FloatLayer, x: _Activation) -> float:
    """What is left of 2**24 after the worst that rounding of weights and bias can add."""
    largest = np.maximum(-x.low, x.high).astype(np.float64)
    taps = 9 if layer.kind != "conv1x1" else 1
    count = taps * (largest.max() if layer.kind == "depthwise3x3" else largest.sum())
    # Half a unit a weight, and as much again for the bias correction that makes up for it.
    return ACCUMULATOR_LIMIT - 2 - count


def _integer_layer(
    layer: FloatLayer,
    x: _Activation,
    scale: np.ndarray,
    shift: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> IntegerLayer:
    """Round weight and bias at ``scale`` ``(O,)`` accumulator units a real unit."""
    rows = scale.reshape((-1,) + (1,) * (layer.weight.ndim - 1))
    exact = layer.weight * _by_input(layer, x.step) * rows
    weight = np.rint(exact)
    # What rounding changes at the average input goes into the bias, where it costs nothing.
    correction = _row_sum(layer, (exact - weight) * _by_input(layer, x.mean / x.step))
    bias = np.rint(layer.bias * scale + correction)
    if np.abs(weight).max(initial=0) > _INT16_MAX or np.abs(bias).max() >= 2**31:
        raise BundleError(f"layer {layer.name!r} does not fit int16 weights; this is a bug")
    return IntegerLayer(
        name=layer.name,
        kind=layer.kind,
        weight=weight.astype(np.int16),
        bias=bias.astype(np.int32),
        shift=shift.astype(np.uint8),
        low=low.astype(np.int32),
        high=high.astype(np.int32),
        shuffle=layer.shuffle,
    )


def _row_limits(layer: FloatLayer, x: _Activation) -> tuple[np.ndarray, np.ndarray]:
    """Per row: the bound in real units, and the largest scale that int16 weights allow."""
    bound = _real_bound(layer, x.low * x.step, x.high * x.step)
    weight = np.abs(layer.weight * _by_input(layer, x.step))
    largest = weight.max(tuple(range(1, weight.ndim)))
    with np.errstate(divide="ignore"):
        return np.maximum(bound, 1e-30), (_INT16_MAX - 0.5) / largest


def _free_step(
    layer: FloatLayer, x: _Activation, reach: np.ndarray, target: int, group: int
) -> np.ndarray:
    """Output steps ``(O / group,)`` near ``reach / target`` whose worst row fills its budget.

    Shifts are whole, so a step fixed beforehand would waste up to a bit of the weights; a step free
    within sqrt(2) does not.
    """
    bound, int16_scale = _row_limits(layer, x)
    bound = bound.reshape(-1, group).max(1)
    int16_scale = int16_scale.reshape(-1, group).min(1)
    room = _room(layer, x)
    # A channel that calibration hardly saw: no finer than leaves its weights a few bits.
    reach = np.maximum(reach, bound * target * 2.0**-20)
    shift = np.rint(np.log2(np.minimum(room / bound, int16_scale) * reach / target))
    shift = shift.clip(0, MAX_SHIFT)
    scale = np.minimum((room - 2.0 ** (shift - 1)) / bound, int16_scale)
    return 2.0**shift / scale


def _fixed_scale(
    layer: FloatLayer, x: _Activation, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The largest accumulator scale and its shift, ``(O,)`` each, for output steps ``(O,)``."""
    bound, int16_scale = _row_limits(layer, x)
    # scale = 2**shift / step; scale * bound and the half 2**(shift-1) must fit the room.
    largest = np.minimum(_room(layer, x) / (bound / step + 0.5), int16_scale * step)
    # The tolerance keeps a step made by _free_step from losing its bit to rounding.
    shift = np.floor(np.log2(largest) + 1e-9)
    if shift.min() < 0:
        row = int(shift.argmin())
        raise BundleError(
            f"layer {layer.name!r} row {row} needs outputs of {bound[row] / step[row]:.3g} steps, "
            "beyond 2**24; train with weight decay on the hyper-synthesis or use fewer index bits"
        )
    shift = shift.clip(0, MAX_SHIFT)
    return 2.0**shift / step, shift


def _quantize_hidden(
    layer: FloatLayer,
    x: _Activation,
    reach: np.ndarray,
    target: int,
    statistics: ChannelStatistics,
) -> tuple[IntegerLayer, _Activation]:
    """A trunk layer, with the quantized map that it makes; reach ``(C_out,)`` after the shuffle."""
    group = 4 if layer.shuffle else 1
    step = _free_step(layer, x, reach, target, group)
    high = np.rint(np.maximum(reach, step) / step).clip(1, _INT16_MAX)
    low = np.zeros_like(high) if layer.relu else -high
    scale, shift = _fixed_scale(layer, x, np.repeat(step, group))
    quantized = _integer_layer(
        layer, x, scale, shift, np.repeat(low, group), np.repeat(high, group)
    )
    return quantized, _Activation(step, low, high, statistics.mean)


def _quantize_free(
    layer: FloatLayer, x: _Activation, reach: np.ndarray, target: int
) -> tuple[IntegerLayer, np.ndarray]:
    """A linear head whose step, ``(O,)``, is ours to choose because a multiplier follows."""
    step = _free_step(layer, x, reach, target, 1)
    high = np.rint(np.maximum(reach, step) / step).clip(1, _INT16_MAX)
    scale, shift = _fixed_scale(layer, x, step)
    return _integer_layer(layer, x, scale, shift, -high, high), step


def _quantize_fixed(layer: FloatLayer, x: _Activation, step: np.ndarray) -> IntegerLayer:
    """A linear head with given output steps ``(O,)``."""
    scale, shift = _fixed_scale(layer, x, step)
    high = np.full(len(step), _INT16_MAX)
    return _integer_layer(layer, x, scale, shift, -high, high)
