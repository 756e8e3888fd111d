"""What the tests of backends share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "kodim23.png"


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """The shipped photograph, uint8 (512, 768, 3)."""
    return np.array(Image.open(PHOTO).convert("RGB"))
