"""The small bundle, written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("fuzz", "golden")]


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Folder of the small bundle, with adapters and a feature head for detection."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    import small_bundle

    return small_bundle.write(tmp_path_factory.mktemp("small") / "small")
