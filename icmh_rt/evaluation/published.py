"""Published figures on the Kodak images: references for curves measured on the same images.

`kodak_published.json` is a results file of this package's own schema. Its numbers are CompressAI's
(https://github.com/InterDigitalInc/CompressAI, results/image/kodak): bits per pixel, RGB PSNR and
MS-SSIM, each a mean over the 24 images; the settings of every curve name the file it is from. They
are of networks trained for MSE, one a point, without a limit of time or size: an aim, and the gap
to it is reported like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from icmh_rt.errors import OptionError
from icmh_rt.evaluation import results
from icmh_rt.evaluation.curves import Curve, ImageRecord

FILE = Path(__file__).with_name("kodak_published.json")
SUFFIX = " (CompressAI)"
DEFAULT = ("bmshj2018-hyperprior", "mbt2018-mean", "cheng2020-anchor")
"""What is drawn unless told otherwise."""


@cache
def kodak() -> dict[str, Curve]:
    """Every published curve by its model's name."""
    return {curve.name.removesuffix(SUFFIX): curve for curve in results.load(FILE).curves}


def is_kodak(records: Sequence[ImageRecord]) -> bool:
    """Whether these are the 24 images that the figures are of, by their pixels; names do not
    matter.
    """
    images = next(iter(kodak().values())).images
    return sorted(r.sha256 for r in records) == sorted(image.sha256 for image in images)


def references(names: Sequence[str] | None, records: tuple[ImageRecord, ...]) -> list[Curve]:
    """The published curves to put beside ones measured on these images.

    names: of `kodak()`; None for `DEFAULT` where the images are Kodak's, and nothing elsewhere.
    Raises OptionError if names are asked for and the images are others.
    """
    if not is_kodak(records):
        if names:
            raise OptionError(
                f"published curves are means over the 24 Kodak images, these are {len(records)} "
                "others: give Kodak's as --data or --published none"
            )
        return []
    curves = [kodak()[name] for name in (DEFAULT if names is None else names)]
    # Under the names that these files have here: curves of other images are not compared.
    return [Curve(c.name, c.kind, c.settings, records, published=c.published) for c in curves]
