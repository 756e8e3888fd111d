"""`python -m icmh_rt.evaluation rd ...`: the same as `icmh eval rd ...`."""

from __future__ import annotations

import argparse
import sys

from icmh_rt.evaluation import cli


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m icmh_rt.evaluation", description=cli.__doc__)
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
