"""What layers make of their weights for inference, kept for the next call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

_Kept = TypeVar("_Kept")


class KeptWeights(Generic[_Kept]):
    """One thing for each module and key, made again when the module's parameters have changed.

    Nothing is attached to modules: copies, state dicts and pickles of them are what they were.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, dict[Any, tuple[Any, _Kept]]] = WeakKeyDictionary()

    def get(
        self,
        module: nn.Module,
        key: Any,
        parameters: tuple[Tensor, ...],
        make: Callable[[], _Kept],
    ) -> _Kept:
        """What ``make()`` gave for the module and key when its parameters were what they are."""
        try:
            state = [(p.data_ptr(), p._version) for p in parameters]
        except RuntimeError:  # tensors made in inference mode do not count their changes
            return make()
        entries = self._kept.setdefault(module, {})
        found = entries.get(key)
        if found is None or found[0] != state:
            found = entries[key] = state, make()
        return found[1]
