"""Quantization and scale indexes in C++: the same bits as the reference, from torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_cases import LEVELS, check_call, check_cases, threads  # noqa: F401

from icmh_rt import _native, coding
from icmh_rt.errors import ImageError
from icmh_rt.kernels import _cpu_codec


@pytest.mark.parametrize("level", LEVELS)
def test_cases(level: str) -> None:
    check_cases(_cpu_codec, "quantize_index", level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [0, 1, 2, 62, 63, 64, 255])
def test_any_number_of_thresholds(level: str, count: int) -> None:
    thresholds = torch.logspace(-1, 2, count)
    scales = torch.cat((thresholds, torch.nextafter(thresholds, torch.tensor(1e9))))
    scales = torch.cat((scales, torch.tensor([0.0, -1.0, 1e30, float("inf"), float("nan")])))
    scales = scales.repeat(3)[None, :, None, None]
    given = (torch.zeros_like(scales), None, None, scales, thresholds)
    check_call("quantize_index", _cpu_codec.quantize_index, given, level, str(count))


def test_equal_thresholds() -> None:
    thresholds = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0])
    scales = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])[None, :, None, None]
    given = (torch.zeros_like(scales), None, None, scales, thresholds)
    check_call("quantize_index", _cpu_codec.quantize_index, given, "auto", "equal")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_parts(threads: int, level: str, channels_last: bool) -> None:  # noqa: F811
    latent, mean, scales = torch.randn(3, 2, 70, 41, 67).mul_(9)
    if channels_last:
        latent = latent.contiguous(memory_format=torch.channels_last)
    latent[0, 3, 5, 7:9] = torch.tensor([float("inf"), float("nan")])
    gain, thresholds = torch.rand(70) + 0.5, torch.logspace(-2, 1, 40)
    given = (latent, mean, gain, scales, thresholds)
    check_call("quantize_index", _cpu_codec.quantize_index, given, level, "parts")


def test_too_many_thresholds_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    reason = _cpu_codec.quantize_index_obstacle(x, None, None, x, torch.arange(256.0))
    assert reason is not None and "256 thresholds" in reason


# -- numpy -----------------------------------------------------------------------------------------


def plain(values: np.ndarray, gain: np.ndarray | None, mean: np.ndarray | None) -> np.ndarray:
    """The definition, one rounding an operation."""
    if gain is not None:
        values = values * gain
    if mean is not None:
        values = values - mean
    return np.clip(np.rint(values), -(2**17), 2**17).astype(np.int32)


@pytest.mark.parametrize("shape", [(0, 0, 0), (3, 0, 5), (1, 1, 1), (5, 7, 3), (9, 11, 33), (40,)])
@pytest.mark.parametrize("gained", [False, True])
@pytest.mark.parametrize("mean_of", ["none", "channel", "value"])
def test_numpy(shape: tuple[int, ...], gained: bool, mean_of: str) -> None:
    random = np.random.default_rng(sum(shape))
    values = (random.normal(size=shape) * 10.0 ** random.integers(-2, 7, shape)).astype(np.float32)
    values[random.random(shape) < 0.3] = 2.5
    gain = random.uniform(0.5, 2, shape[-1]).astype(np.float32) if gained else None
    mean_shape = shape[-1:] if mean_of == "channel" else shape
    mean = None if mean_of == "none" else random.normal(size=mean_shape).astype(np.float32)
    symbols, bad = _native.module().quantize(values, gain, mean)
    assert symbols.dtype == np.int32 and bad == 0
    np.testing.assert_array_equal(symbols, plain(values, gain, mean))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_numpy_counts_what_is_not_finite(special: float) -> None:
    values = np.full((3, 4, 5), 1.5, np.float32)
    values[1, 2, 3] = special
    symbols, bad = _native.module().quantize(values)
    assert bad == 1
    assert symbols[1, 2, 3] == (0 if np.isnan(special) else np.sign(special) * 2**17)
    assert (np.delete(symbols.ravel(), 33) == 2).all()
    with pytest.raises(ImageError, match="not finite"):
        coding.to_symbols(values)


def test_numpy_refuses_other_arrays() -> None:
    quantize = _native.module().quantize
    values = np.zeros((3, 4, 5), np.float32)
    for wrong in (values.astype(np.float64), values.transpose(2, 1, 0), np.float32(1), "text"):
        with pytest.raises(TypeError):
            quantize(wrong)
    with pytest.raises(ValueError, match="gain"):
        quantize(values, np.zeros(4, np.float32))
    for shape in ((4,), (4, 5), (3, 5, 4), (1, 4, 5)):
        with pytest.raises(ValueError, match="mean"):
            quantize(values, None, np.zeros(shape, np.float32))
