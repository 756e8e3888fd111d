from __future__ import annotations

import dataclasses

import pytest
from evaluation_fakes import photograph
from PIL import Image

from icmh_rt.errors import OptionError
from icmh_rt.evaluation import published
from icmh_rt.evaluation.rd import find_images, read_records


def kodak_records():
    return next(iter(published.kodak().values())).images


def test_every_curve_is_sound_and_names_its_source():
    curves = published.kodak()
    assert set(published.DEFAULT) <= set(curves)
    for curve in curves.values():
        assert curve.kind == "published" and len(curve.images) == 24
        assert curve.settings["source"].startswith("https://github.com/InterDigitalInc/CompressAI/")
        for values in ([p.bpp for p in curve.points], [p.psnr for p in curve.points]):
            assert values == sorted(values)
        assert all(0.5 < point.ms_ssim < 1 for point in curve.points)


def test_figures_that_the_papers_made_known():
    first = published.kodak()["mbt2018-mean"].points[0]
    assert (first.bpp, first.psnr, first.ms_ssim) == pytest.approx((0.123922, 27.699473, 0.917841))


def test_kodak_is_known_by_its_pixels_whatever_the_files_are_called():
    records = tuple(
        dataclasses.replace(r, name=f"{24 - i:02d}.bmp") for i, r in enumerate(kodak_records())
    )
    assert published.is_kodak(records[::-1])
    assert not published.is_kodak(records[:-1])
    found = published.references(None, records)
    assert [curve.name.removesuffix(published.SUFFIX) for curve in found] == [*published.DEFAULT]
    assert all(curve.images == records for curve in found)
    assert published.references((), records) == []
    assert len(published.references(("VTM",), records)) == 1


def test_other_images_get_none_and_asking_for_them_is_an_error(tmp_path):
    Image.fromarray(photograph(1)).save(tmp_path / "kodim01.png")
    records = read_records(find_images(tmp_path))
    assert published.references(None, records) == []
    with pytest.raises(OptionError, match="24 Kodak images, these are 1 others"):
        published.references(("VTM",), records)
