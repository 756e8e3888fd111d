"""Shared pytest setup: one thread per test process and reproducible hypothesis runs."""

from __future__ import annotations

import os

# Set before numpy or torch load their thread pools: small arrays gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some tests import onnxruntime themselves, which would tell its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from hypothesis import HealthCheck, settings

# Same examples on every run and machine; no time limit, because shared runners stall.
settings.register_profile(
    "icmh",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("icmh")
