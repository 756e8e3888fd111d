"""What runs the transforms. A backend is imported when it is first asked for, never before."""

from __future__ import annotations

from icmh_rt.backends.base import Backend, Latents
from icmh_rt.backends.registry import available, create

__all__ = ["Backend", "Latents", "available", "create"]
