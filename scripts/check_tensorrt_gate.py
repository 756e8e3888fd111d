"""Register the frequency gate with the real ``tensorrt.plugin`` of a bindings wheel and ask it for
everything that TensorRT asks when it builds an engine.

    pip download --no-deps -d wheels tensorrt_cu13_bindings
    python scripts/check_tensorrt_gate.py wheels/tensorrt_cu13_bindings-*.whl

``tensorrt.plugin`` is Python over the bindings; the libraries below them are empty here
(list_tensorrt_api.py). Its registry and its arithmetic with dimensions, which TensorRT would give,
are played by a few lines. Nothing is built and no kernel runs.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from list_tensorrt_api import import_wheel

from icmh_rt.export import _tensorrt_gate

IMAGES, CHANNELS, HEIGHT, WIDTH = 2, 32, 37, 20


class _Registry:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.creators: list[Any] = []

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators.append(creator)
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[-1]


def _numbers(trt: Any) -> Any:
    """An IExprBuilder whose expressions are numbers."""
    operations = {
        trt.DimensionOperation.SUM: lambda a, b: a + b,
        trt.DimensionOperation.PROD: lambda a, b: a * b,
        trt.DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
    }

    class Number(trt.IDimensionExpr):
        def is_constant(self) -> bool:
            return True

        def get_constant_value(self) -> int:
            return self.value

    class Builder:
        def constant(self, value: int) -> Any:
            number = Number.__new__(Number)  # the bindings let nobody construct one
            number.value = value
            return number

        def operation(self, kind: Any, a: Any, b: Any) -> Any:
            return self.constant(operations[kind](a.value, b.value))

    return Builder()


def check(trt: Any) -> None:
    """Raise AssertionError, or whatever the bindings raise, if something does not fit."""
    registry = _Registry()
    trt.get_plugin_registry = lambda: registry
    trtp = importlib.import_module("tensorrt_bindings.plugin")
    _tensorrt_gate.register(trtp)
    (creator,) = registry.creators
    assert (creator.name, creator.plugin_version) == ("frequency_gate", "1")
    definition = importlib.import_module("tensorrt_bindings.plugin._lib").QDP_REGISTRY[
        "icmh::frequency_gate"
    ]
    tensors = importlib.import_module("tensorrt_bindings.plugin._tensor")
    numbers = _numbers(trt)
    tensors.SymIntExpr._exprBuilder = numbers

    def tensor(*shape: int) -> Any:
        made = trtp.TensorDesc()
        made.dtype = trt.float32
        made.shape_expr = trtp.ShapeExprs(len(shape))
        for axis, side in enumerate(shape):
            made.shape_expr[axis] = trtp.ShapeExpr(numbers.constant(side))
        return made

    inputs = [
        tensor(IMAGES, CHANNELS, HEIGHT, WIDTH, 2),
        tensor(CHANNELS, 1, 3, 3),
        tensor(CHANNELS),
        tensor(CHANNELS, CHANNELS),
        tensor(CHANNELS),
    ]
    output = definition.register_func(*inputs)
    shape = [output.shape_expr[axis]._expr.value for axis in range(5)]
    assert shape == [IMAGES, CHANNELS, HEIGHT, WIDTH, 2], shape
    (combination,) = definition.autotune_func(*inputs, (output,))
    (types,) = combination._get_combinations()
    assert types.tactics == [1, 2, 3] and set(types.types) == {trt.float32}, types
    for tactic in types.tactics:
        found = definition.aot_impl_func(*inputs, (output,), tactic)
        name, ptx, launch, extra = found
        kernel = _tensorrt_gate.compile_kernel(CHANNELS, tactic)
        assert (name, ptx) == (kernel.name, kernel.ptx) and f".entry {name}(" in ptx
        grid = [getattr(launch, f"grid_{axis}")._expr.value for axis in "xyz"]
        assert grid == [-(-HEIGHT * WIDTH // kernel.positions), IMAGES, 1], grid
        assert launch.block_x._expr.value == kernel.threads
        assert launch.shared_mem._expr.value == kernel.shared_bytes
        assert isinstance(extra, trtp.SymExprs) and all(isinstance(e, trtp.SymInt32) for e in extra)
        assert [e._expr.value for e in extra] == [HEIGHT, WIDTH]
        print(f"tactic {tactic}: grid {grid}, {kernel.threads} threads, {len(ptx)} bytes of PTX")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trt = import_wheel(Path(sys.argv[1]), Path(folder))
        sys.modules["tensorrt"] = trt
        check(trt)
    print(f"the gate fits tensorrt.plugin of {trt.__version__}")


if __name__ == "__main__":
    main()
