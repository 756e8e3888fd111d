"""The default bundle without what is trained beside its base."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from icmh_rt import bundle as bundles
from icmh_rt.bitstream import BASE_TASK


def bare() -> bundles.Bundle:
    """In memory: the base task alone."""
    return replace(bundles.load(), tasks=(BASE_TASK,), adapters={}, feature_heads={})


def bare_copy(place: Path) -> Path:
    """On disk, at ``place``."""
    others = shutil.ignore_patterns(bundles.ADAPTERS, bundles.FEATURES)
    return Path(shutil.copytree(bundles.find("default"), place, ignore=others))
