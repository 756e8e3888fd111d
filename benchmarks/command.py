"""How benchmarks start and end: threads chosen before the libraries load, errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ICMH_NUM_THREADS")


def set_threads(count: int) -> None:
    """``count`` threads for every library, 0 for as many as they choose. They read it when they are
    imported: call this before.
    """
    if count:
        for name in _VARIABLES:
            os.environ[name] = str(count)


def run(name: str, work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """``work(options)``; 2, and one line on stderr, for an error of the package."""
    from icmh_rt.errors import IcmhError

    try:
        return work(options)
    except IcmhError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
