"""What runs the transforms. A backend is imported when it is first asked for, never before."""

from __future__ import annotations

from icmh_rt.backends.base import Backend, HostLatents, Latents
from icmh_rt.backends.registry import Choice, available, choose, create

__all__ = [
    "Backend",
    "Choice",
    "HostLatents",
    "Latents",
    "available",
    "choose",
    "create",
]
