"""Compiles the launches of Triton kernels to machine code for GPUs that are not here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import triton
from kernel_cases import REGISTERED
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from icmh_rt.kernels import _triton

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}

Config = tuple[dict[str, int], int, int]
"""Constants, warps, stages."""


@dataclass
class Launch:
    """What a hook asked Triton to run."""

    kernel: _triton.Tuned | triton.JITFunction
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def function(self) -> triton.JITFunction:
        return getattr(self.kernel, "function", self.kernel)

    @property
    def configs(self) -> list[Config]:
        return list(getattr(self.kernel, "configs", [({}, 4, 1)]))

    def compile(self, config: Config, capability: int) -> triton.compiler.CompiledKernel:
        """For compute capability ``capability``, specialized as the launch would be."""
        parameters = inspect.signature(self.function.fn).parameters
        values = dict(zip(parameters, self.arguments, strict=False))
        constants_of_config, warps, stages = config
        options = {"num_warps": warps, "num_stages": stages}
        for name, value in {**self.options, **constants_of_config}.items():
            (values if name in parameters else options)[name] = value
        signature, constants, attributes = {}, {}, {}
        for place, (name, parameter) in enumerate(parameters.items()):
            value = values[name]
            one = isinstance(value, int) and value == 1
            if "constexpr" in str(parameter.annotation) or value is None or one:
                signature[name], constants[name] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[name] = _POINTERS[value.dtype]
                divisible = True
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
                divisible = isinstance(value, int) and value % 16 == 0
            if divisible:
                attributes[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.function, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def launches(op: str, given: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What the op's Triton hook would launch on these arguments, which may be on the CPU."""
    found: list[Launch] = []

    def record(kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        options.setdefault("enable_fp_fusion", True)
        found.append(Launch(kernel, arguments, options))

    with monkeypatch.context() as patch:
        patch.setattr(_triton, "launch", record)
        REGISTERED[op]._twins["triton"].run(*given)
    return found
