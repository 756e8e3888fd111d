"""Claim: what `icmh profile` measures with adds at most two percent to a call.

    python benchmarks/profile_overhead.py [--width W] [--size HxW] [--rounds N]

Encodes and decodes the same photograph with and without the instruments (a stopwatch's laps, hooks,
events on a GPU), in turns that begin with the one or the other. Prints the median of the rounds'
ratios with its 95 % interval. Exit code 1 if even the interval's low end is above 1.02: the default
is the narrowest width at 256x256, where a call is shortest and instruments would weigh most.
"""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", default="256x256", help="height x width")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rounds", type=int, default=20, help="of each of three windows")
    options = parser.parse_args(arguments)
    from icmh_rt.errors import IcmhError

    try:
        return _run(options)
    except IcmhError as error:
        print(f"profile_overhead: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from icmh_rt.errors import OptionError
    from icmh_rt.profiling.plan import Plan
    from icmh_rt.profiling.records import OVERHEAD_BAR
    from icmh_rt.profiling.run import profile

    height, _, width = options.size.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise OptionError(f"size {options.size!r} is none: give HEIGHTxWIDTH")
    plan = Plan(
        widths=(options.width,),
        sizes=((int(height), int(width)),),
        backends=(options.backend,),
        rounds=options.rounds,
        max_windows=3,
        with_memory=False,
        with_energy=False,
    )
    document = profile(plan)
    code = 0
    for record in document["configurations"]:
        for operation in ("encode", "decode"):
            found = record[operation]["overhead"]
            low = found["value"] if found["low"] is None else found["low"]
            verdict = "MISSES" if low > 1.0 + OVERHEAD_BAR else "meets"
            code |= verdict == "MISSES"
            ends = ", ".join(f"{found[end] - 1.0:+.2%}" for end in ("low", "high") if found[end])
            print(
                f"{record['name']}, {operation}: {found['value'] - 1.0:+.2%} [{ends}] of "
                f"{record[operation]['end_to_end']['p50']['value']:.2f} ms: {verdict} the bar of "
                f"{OVERHEAD_BAR:.0%}"
            )
    for note in document["conditions"]["notes"]:
        print(f"- {note}")
    return code


if __name__ == "__main__":
    sys.exit(main())
