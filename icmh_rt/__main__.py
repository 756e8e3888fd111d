"""`python -m icmh_rt`: the same as `icmh`."""

from __future__ import annotations

import sys

from icmh_rt.cli import main

if __name__ == "__main__":
    sys.exit(main())
