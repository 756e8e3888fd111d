"""Named ranges for Nsight Systems: torch's NVTX or the package nvtx, and nothing without them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Ranges:
    """Ranges of this thread: one around a call, and inside it one a stage.

    A stage is named when it ends, and a range when it begins. What follows what is the same in all
    calls of a kind, so the stages of one call name the ranges of the next.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._orders: dict[str, list[str]] = {}
        self._names: list[str] = []
        self._expected: list[str] = []

    def __bool__(self) -> bool:
        return self._library is not None

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Around one call; ``name`` tells the kinds apart."""
        if self._library is None:
            yield
            return
        self._names, self._expected = [], self._orders.get(name, [])
        self._library.push(name)
        self._begin()
        try:
            yield
        finally:
            if self._expected:
                self._library.pop()
            self._library.pop()
            self._orders[name] = self._names

    def lap(self, stage: str) -> None:
        """A stage has ended."""
        if self._library is None:
            return
        self._names.append(stage)
        if self._expected:
            self._library.pop()
            self._begin()

    def _begin(self) -> None:
        if self._expected:
            place = len(self._names)
            self._library.push(self._expected[place] if place < len(self._expected) else "rest")


class _Torch:
    """torch.cuda.nvtx"""

    def __init__(self, module: Any) -> None:
        self.push, self.pop = module.range_push, module.range_pop


class _Package:
    """The package nvtx."""

    def __init__(self, module: Any) -> None:
        self.push, self.pop = module.push_range, module.pop_range


def ranges() -> Ranges:
    """Those of the library that is here. torch is asked only if it is loaded already."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return Ranges(_Torch(torch.cuda.nvtx))
    try:
        import nvtx
    except ImportError:
        return Ranges()
    return Ranges(_Package(nvtx))
