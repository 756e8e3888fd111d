"""The spatial-frequency modulation adapter as nodes; the mathematics is in `kernels.sfma`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icmh_rt.errors import OptionError
from icmh_rt.graphs._builder import Side
from icmh_rt.graphs._dft import Fourier
from icmh_rt.graphs._layers import Layers

PLACES = {
    "encoder_sfmas": ("g_a.stem", "g_a.down:input", "g_a.down"),
    "decoder_sfmas": ("g_s.head:input", "g_s.blocks_8.0:input", "g_s.up:input"),
}
"""Where the adapters of the default codec sit, nearest the image first."""

_KERNELS = {
    "s_down1": 1,
    "s_down2": 1,
    "f_down": 1,
    "s_dw": 5,
    "f_dw": 3,
    "f_inter": 1,
    "s_up": 1,
    "f_up": 1,
}
_DEPTHWISE = ("s_dw", "f_dw")
_DOWN = ("s_down1", "s_down2", "f_down")
_UP = ("s_up", "f_up")


class Adapters:
    """One task's adapters, checked; calling it writes one of them into a graph.

    Args:
        layers: of the graph.
        arrays: by name, ``encoder_sfmas.0.s_down1.weight`` and so on, with or without the task
            before it; ``factor`` multiplies what they change.
        task: whose.
        channels: at the largest width, by place.

    Raises:
        OptionError: an array is missing, unknown, or of another shape than the others.
    """

    def __init__(
        self,
        layers: Layers,
        arrays: Mapping[str, np.ndarray],
        task: str,
        channels: Mapping[str, int],
    ) -> None:
        self._layers = layers
        self._arrays = {k.removeprefix(f"{task}."): np.asarray(v) for k, v in arrays.items()}
        self._task = task
        factor = self._arrays.pop("factor", np.array(1.0))
        if factor.size != 1 or not np.isfinite(factor).all():
            raise OptionError(f"adapter factor is {factor!r}: give one finite number")
        self._factor = float(factor.reshape(()))
        self._names = {
            place: f"{part}.{i}"
            for part, places in PLACES.items()
            for i, place in enumerate(places)
        }
        known = {
            f"{name}.{layer}.{part}"
            for name in self._names.values()
            for layer in _KERNELS
            for part in ("weight", "bias")
        }
        unknown = sorted(set(self._arrays) - known)
        if unknown:
            raise OptionError(
                f"adapters of task {task!r} have an unknown array {unknown[0]!r}: graphs have "
                "three in g_a and three in g_s, at the default codec's own places"
            )
        for place, name in self._names.items():
            self._check(name, channels[place])
        self._fourier = Fourier(layers.b)

    def _array(self, name: str) -> np.ndarray:
        try:
            return self._arrays[name]
        except KeyError:
            raise OptionError(f"adapters of task {self._task!r} lack {name!r}") from None

    def _check(self, name: str, channels: int) -> None:
        middle = len(self._array(f"{name}.s_down1.bias"))
        for layer, kernel in _KERNELS.items():
            outputs = channels if layer in _UP else middle
            inputs = channels if layer in _DOWN else 1 if layer in _DEPTHWISE else middle
            wanted = {"weight": (outputs, inputs, kernel, kernel), "bias": (outputs,)}
            for part, shape in wanted.items():
                array = self._array(f"{name}.{layer}.{part}")
                if array.shape != shape or array.dtype.kind != "f":
                    raise OptionError(
                        f"adapters of task {self._task!r} have {array.dtype} {array.shape} for "
                        f"{name}.{layer}.{part}, not floats {shape}"
                    )
                if not np.isfinite(array).all():
                    raise OptionError(
                        f"adapters of task {self._task!r} have a value in {name}.{layer}.{part} "
                        "that is not finite"
                    )

    def at(self, place: str, x: str, channels: int, sides: tuple[Side, Side]) -> str:
        """The adapted feature map (N, channels, *sides)."""
        if self._factor == 0.0:
            return x
        name = self._names[place]
        b, layers = self._layers.b, self._layers
        widest = len(self._array(f"{name}.s_up.bias"))
        middle = -(-len(self._array(f"{name}.s_down1.bias")) * channels // widest)

        def convolve(x: str, layer: str, dtype: str | None = None) -> str:
            outputs = channels if layer in _UP else middle
            inputs = channels if layer in _DOWN else middle
            scale = np.float32(self._factor if layer in _UP else 1.0)
            weight = self._array(f"{name}.{layer}.weight")[:outputs, :inputs].astype(np.float32)
            bias = self._array(f"{name}.{layer}.bias")[:outputs].astype(np.float32)
            attributes = {}
            if layer in _DEPTHWISE:
                attributes = {"group": outputs, "pads": [_KERNELS[layer] // 2] * 4}
            return layers.convolution(
                x, f"{name}.{layer}", weight * scale, bias * scale, dtype=dtype, **attributes
            )

        float32 = "float32"
        with b.scope(name.replace(".", "/")):
            near = convolve(convolve(x, "s_down1"), "s_dw")
            spatial = b.node("Relu", b.node("Mul", near, convolve(x, "s_down2")))
            planes = convolve(x, "f_down")
            if layers.weights.dtype != float32:
                planes = b.cast(planes, float32)  # amplitudes of large maps leave half precision
            real, imaginary = self._fourier.forward(planes, sides)
            squares = (b.node("Mul", part, part) for part in (real, imaginary))
            amplitude = b.node("Sqrt", b.node("Add", *squares), name="amplitude")
            smooth = b.node("Relu", convolve(amplitude, "f_dw", float32))
            gate = b.node("Sigmoid", convolve(smooth, "f_inter", float32), name="gate")
            real, imaginary = (b.node("Mul", part, gate) for part in (real, imaginary))
            planes = b.node("Relu", self._fourier.inverse(real, imaginary, sides))
            if layers.weights.dtype != float32:
                planes = b.cast(planes, layers.weights.dtype)
            x = b.node("Add", x, convolve(planes, "f_up"))
            return b.node("Add", x, convolve(spatial, "s_up"))
