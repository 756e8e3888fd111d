"""Configurations from YAML: dataclasses whose fields are checked by their types."""

from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from icmh_rt.errors import TrainingError

_Config = TypeVar("_Config")


def build(kind: type[_Config], values: Any, where: str = "config") -> _Config:
    """``kind`` from plain values, dataclasses in it from mappings; TrainingError names the key that
    is unknown or of another type.
    """
    if not isinstance(values, dict):
        raise TrainingError(f"{where} must be a mapping, got {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(values) - set(known))
    if unknown:
        raise TrainingError(f"unknown key {where}.{unknown[0]}; known: {', '.join(known)}")
    return kind(
        **{
            name: build(hints[name], value, name)
            if is_dataclass(hints[name])
            else _value(value, hints[name], f"{where}.{name}")
            for name, value in values.items()
        }
    )


def _value(value: Any, kind: Any, where: str) -> Any:
    """``value`` as ``kind``, a plain type or a tuple of them; YAML reads 1e-3 as text."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise TrainingError(f"{where} must be a list, got {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        elif len(value) != len(kinds):
            raise TrainingError(f"{where} must have {len(kinds)} values, got {list(value)}")
        each = enumerate(zip(value, kinds, strict=True))
        return tuple(_value(v, its, f"{where}[{i}]") for i, (v, its) in each)
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise TrainingError(f"{where} must be {kind.__name__}, got {value!r}")
    try:
        if kind is str and not isinstance(value, str):
            raise TypeError
        made = kind(value)
        if kind is int and made != float(value):
            raise ValueError
    except (TypeError, ValueError):
        raise TrainingError(f"{where} must be {kind.__name__}, got {value!r}") from None
    return made


def check(*checks: tuple[bool, str]) -> None:
    """TrainingError with the message of the first that does not hold."""
    for holds, message in checks:
        if not holds:
            raise TrainingError(message)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The plain values of a configuration file; TrainingError when it is no YAML mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read config {str(path)!r}: {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"config {str(path)!r} is not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise TrainingError(f"config {str(path)!r} must be a mapping")
    return values
