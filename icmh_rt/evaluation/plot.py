"""The rate-distortion figure. matplotlib is imported when one is drawn, not before."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from icmh_rt._files import replace_file
from icmh_rt.errors import BackendUnavailableError, IcmhError, OptionError
from icmh_rt.evaluation.curves import Curve, finite_points
from icmh_rt.evaluation.results import Results

SUFFIXES = (".svg", ".png", ".pdf")
# Light to dark with the width: one hue for one codec, told apart in gray print by marker as well.
CODEC_COLORS = ("#9ecae1", "#4f9fd0", "#2171b5", "#08306b")
MARKERS = ("o", "s", "^", "D")
OTHER_STYLES = (
    ("#b35806", "--"),
    ("#e08214", ":"),
    ("#1b7837", "--"),
    ("#5aae61", ":"),
    ("#c51b7d", "--"),
    ("#de77ae", ":"),
)
PUBLISHED_STYLES = (("#762a83", "-."), ("#9970ab", (0, (1, 1))), ("#555555", (0, (5, 2, 1, 2))))


def require(path: str | os.PathLike[str]) -> None:
    """Check, before anything is measured, that a figure can be written there.

    Raises OptionError for another suffix than `SUFFIXES`, BackendUnavailableError naming the extra
    where matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise OptionError(f"cannot draw {path}: the name must end in {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailableError("figures need matplotlib: pip install 'icmh-rt[eval]'")


def draw(results: Results, path: str | os.PathLike[str], title: str) -> None:
    """Write PSNR against bits per pixel of every curve, cut to the rates that this codec covers.

    Raises as `require`, and IcmhError if the file cannot be written.
    """
    require(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no global state, no display
    axes = figure.add_subplot()
    counts = dict.fromkeys(("codec", "anchor", "published"), 0)
    for curve in sorted(
        results.curves, key=lambda c: ("published", "anchor", "codec").index(c.kind)
    ):
        points = finite_points(curve.points)
        style = _style(curve, counts[curve.kind], len(results.codec_curves))
        counts[curve.kind] += 1
        axes.plot([p.bpp for p in points], [p.psnr for p in points], label=curve.name, **style)
    _frame(axes, results)
    axes.set(xlabel="bits per pixel (whole file)", ylabel="PSNR, RGB (dB)", title=title)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    # Beside the curves: there may be more than a dozen.
    figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right upper")

    save(figure, path)


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure. The same one gives the same bytes: no date, no random identifiers.

    Raises IcmhError if the file cannot be written.
    """
    import matplotlib

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = Path(path).suffix.lower()
    try:
        with matplotlib.rc_context({"svg.hashsalt": "icmh_rt"}), replace_file(path) as file:
            figure.savefig(file, format=suffix[1:], metadata=undated.get(suffix))
    except OSError as error:
        raise IcmhError(f"cannot write {path}: {error.strerror or error}") from error


def _style(curve: Curve, index: int, codec_count: int) -> dict[str, Any]:
    if curve.kind == "codec":
        shade = len(CODEC_COLORS) - min(codec_count, len(CODEC_COLORS)) + index
        color = CODEC_COLORS[min(shade, len(CODEC_COLORS) - 1)]
        marker = MARKERS[index % len(MARKERS)]
        return {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.8}
    styles = OTHER_STYLES if curve.kind == "anchor" else PUBLISHED_STYLES
    color, dashes = styles[index % len(styles)]
    return {"color": color, "linestyle": dashes, "linewidth": 1.4}


def _frame(axes: Any, results: Results) -> None:
    """Anchors go far beyond the rates of interest: fit the axes to this codec's own points."""
    curves = results.codec_curves or list(results.curves)
    own = [point for curve in curves for point in finite_points(curve.points)]
    if not own:
        return
    right = 1.1 * max(point.bpp for point in own)
    seen = [p for c in results.curves for p in finite_points(c.points) if p.bpp <= right]
    axes.set_xlim(0, right)
    axes.set_ylim(min(p.psnr for p in own) - 2, max(p.psnr for p in seen) + 1)
