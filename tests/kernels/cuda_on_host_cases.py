"""Runs the CUDA kernels on this CPU over all cases; also a program, for the sanitizers.

    python cuda_on_host_cases.py LIBRARY OP...

prints a line for every case that fails, and exits with 1 if one did.
"""

from __future__ import annotations

import sys
from pathlib import Path

import kernel_cases
import torch
from kernel_cases import Case

from icmh_rt.kernels import _cuda
from icmh_rt.kernels._op import OPS, Implementation

ASCENDING, DESCENDING = 0, 1  # how a block's threads take turns; other numbers shuffle them


def use(path: Path) -> None:
    """Make "cuda" mean the library at ``path``, on CPU tensors, in this process."""
    _cuda._library = _cuda.load(path)
    for name in kernel_cases.OPS:
        OPS[name]._twins["cuda"] = Implementation(getattr(_cuda, name), lambda *arguments: None)


def large_cases(op: str) -> list[Case]:
    """Several tiles in every direction, in both layouts and all dtypes."""
    found = []
    dtypes = kernel_cases.DTYPES if op != "quantize_index" else ("fp32",)
    for dtype in dtypes:
        for layout in ("nchw", "channels_last"):
            found.append(Case(op, "tiles", layout, dtype=dtype, channels=72))
            found.append(Case(op, "ragged", layout, dtype=dtype, channels=67))
            if op in ("frequency_gate", "project_down", "gdn"):
                found.append(Case(op, "odd", layout, dtype=dtype, channels=136))
    if op == "project_up":  # steps of the inner loop that lie wholly in the second input
        for dtype in kernel_cases.DTYPES:
            found += [
                Case(op, shape, "channels_last", dtype=dtype, channels=126)
                for shape in ("odd", "even", "ragged")
            ]
    if op == "frequency_gate":  # three sizes of blocks, and more channels than the largest has
        found += [Case(op, "odd", channels=200), Case(op, "tiny", channels=272)]
    return found


def failures(op: str, found: list[Case]) -> list[str]:
    """What is wrong, one line a case: with the reference, or among the orders of the threads."""
    lines = []
    for case in found:
        try:
            kernel_cases.check(case, "cuda")
            if case.shape in ("odd", "ragged") and case.values == "normal":
                results = [_result(case, order) for order in (ASCENDING, DESCENDING, 2024)]
                assert all(_same(results[0], other) for other in results[1:]), "a race"
        except Exception as error:
            lines.append(f"{case}: {type(error).__name__}: {error}")
        finally:
            _cuda.library().cuda_on_host_set_order(ASCENDING)
    return lines


def _result(case: Case, order: int) -> tuple[torch.Tensor, ...]:
    _cuda.library().cuda_on_host_set_order(order)
    given = kernel_cases.arguments(case)
    found = OPS[case.op](*given, implementation="cuda")
    return found if isinstance(found, tuple) else (found,)


def _same(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    bits = kernel_cases._bits
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(some, others, strict=True))


def main() -> int:
    torch.set_num_threads(1)
    use(Path(sys.argv[1]))
    failed = False
    for op in sys.argv[2:]:
        lines = failures(op, kernel_cases.cases(op) + large_cases(op))
        print("\n".join([f"{op}: {len(lines)} failures", *lines]), flush=True)
        failed = failed or bool(lines)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
