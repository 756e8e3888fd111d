from __future__ import annotations

import csv
import io

import pytest

from icmh_rt.evaluation.csv_table import COLUMNS, to_csv
from icmh_rt.evaluation.curves import Curve, ImageRecord, Point
from icmh_rt.evaluation.results import Results

IMAGES = (ImageRecord('a, "b".png', 10, 10, "0" * 16), ImageRecord("ü;\n.png", 20, 10, "1" * 16))


def test_every_figure_is_in_its_row():
    measured = Curve(
        "codec",
        "codec",
        {},
        IMAGES,
        (5, 50),
        ((100, 200), (300, 400)),
        ((0, 9000), (300, 600)),
        estimated_bits=((799.5, 1600.0), (2400.0, 3200.0)),
        encode_ms=(1.5, 2.5),
        decode_ms=(1.0, 2.0),
        ms_ssims=((0.9, None), (0.95, 0.97)),
    )
    paper = Curve("paper", "published", {}, IMAGES, published=(Point(None, 0.5, 30.0),))
    rows = list(csv.DictReader(io.StringIO(to_csv(Results((measured, paper))), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["image"] for row in rows[:3]] == ["", IMAGES[0].name, IMAGES[1].name]
    assert len(rows) == 2 * 3 + 1
    mean, first, second = rows[:3]
    assert (mean["bpp"], mean["psnr_db"], mean["ms_ssim"]) == ("8", "inf", "")
    assert (mean["encode_ms"], first["encode_ms"]) == ("1.5", "")
    assert (first["bytes"], first["psnr_db"], first["ms_ssim"]) == ("100", "inf", "0.9")
    assert first["estimated_bits"] == "799.5"
    assert (second["height"], second["width"], second["ms_ssim"]) == ("20", "10", "")
    assert float(rows[3]["ms_ssim"]) == pytest.approx(0.96)
    assert rows[-1] == {
        **dict.fromkeys(COLUMNS, ""),
        "curve": "paper",
        "kind": "published",
        "bpp": "0.5",
        "psnr_db": "30",
    }
