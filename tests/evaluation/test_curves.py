from __future__ import annotations

import math

import pytest

from icmh_rt.errors import OptionError
from icmh_rt.evaluation.curves import Curve, ImageRecord, Point, check, compare

IMAGES = (ImageRecord("a.png", 10, 10, "0" * 16), ImageRecord("b.png", 20, 10, "1" * 16))


def curve(byte_counts, errors, name="codec", kind="codec", images=IMAGES, **rest) -> Curve:
    qualities = tuple(range(1, len(byte_counts) + 1))
    return Curve(name, kind, {}, images, qualities, byte_counts, errors, **rest)


def typical(factor=1.0, name="codec") -> Curve:
    counts = [tuple(round(factor * n) for n in row) for row in ((100, 200), (200, 400), (400, 700))]
    return curve(tuple(counts), ((90000, 150000), (40000, 70000), (9000, 20000)), name)


def test_points_are_means_of_what_each_image_gives():
    point = curve(((100, 100),), ((300 * 65025 // 100, 600 * 65025 // 1000),)).points[0]
    assert point.bpp == pytest.approx((8.0 + 4.0) / 2)  # not 8 * 200 bytes / 300 pixels
    assert point.psnr == pytest.approx((20.0 + 30.0) / 2, abs=1e-3)
    assert point.psnr_of_mean_mse == pytest.approx(-10 * math.log10(0.0055), abs=1e-3)


def test_a_curve_scaled_in_bytes_has_that_bd_rate_overall_and_per_image():
    result = compare(typical(2.0), typical(1.0, "anchor"))
    assert result.rate.value == pytest.approx(100.0)
    assert result.rate_akima.value == pytest.approx(100.0)
    assert result.mean_image_rate == pytest.approx(100.0)
    assert (result.image_count, result.problem) == (2, None)
    assert (result.test, result.anchor) == ("codec", "anchor")


def test_ms_ssim_is_compared_where_both_curves_have_it():
    similar = ((0.9, 0.91), (0.95, 0.96), (0.98, 0.98))
    counts, errors = typical().byte_counts, typical().squared_errors
    ours = curve(counts, errors, ms_ssims=similar)
    doubled = tuple(tuple(2 * n for n in row) for row in counts)
    theirs = curve(doubled, errors, "anchor", ms_ssims=similar)
    assert ours.points[0].ms_ssim == pytest.approx(0.905)
    assert compare(ours, theirs).ms_ssim_rate.value == pytest.approx(-50.0)
    assert compare(ours, typical()).ms_ssim_rate is None
    one_missing = curve(counts, errors, "anchor", ms_ssims=((0.9, None), *similar[1:]))
    assert one_missing.points[0].ms_ssim is None
    assert compare(ours, one_missing).ms_ssim_rate is not None  # over the points that have it
    lossless = curve(counts, errors, "anchor", ms_ssims=((0.9, 0.9), (0.95, 0.96), (1.0, 1.0)))
    assert compare(lossless, ours).ms_ssim_rate.warnings[-1].startswith("tested curve has only 2")
    with pytest.raises(OptionError, match="3 rows of 2"):
        curve(counts, errors, ms_ssims=((0.9, 0.9),))


def test_a_lossless_point_is_left_out_of_the_deltas():
    counts, errors = typical().byte_counts, typical().squared_errors
    more = curve((*counts, (900, 1500)), (*errors, (0, 5000)))
    assert more.points[-1].psnr == math.inf
    result = compare(more, typical(1.0, "anchor"))
    assert result.rate.value == pytest.approx(0.0)
    assert result.image_count == 2


def test_curves_that_do_not_overlap_say_so_in_place_of_a_figure():
    worse = curve(((100, 200), (120, 300)), ((900000, 1500000), (800000, 1400000)), "worse")
    result = compare(typical(), worse)
    assert result.rate is result.psnr is result.mean_image_rate is None
    assert result.image_count == 0
    assert "share no interval of PSNR" in result.problem


def test_an_image_without_a_usable_curve_is_left_out_and_counted():
    # The second image is reproduced exactly at every quality, so it has no curve.
    errors = tuple((row[0], 0) for row in typical().squared_errors)
    flat = curve(typical().byte_counts, errors)
    assert compare(flat, typical(1.0, "anchor")).image_count == 1


def test_curves_of_different_images_are_not_compared():
    other = (IMAGES[0], ImageRecord("b.png", 20, 10, "2" * 16))
    theirs = curve(typical().byte_counts, typical().squared_errors, "anchor", images=other)
    with pytest.raises(OptionError, match="'codec' and 'anchor' were measured on different images"):
        compare(typical(), theirs)


def test_a_published_curve_is_compared_by_its_means():
    points = tuple(Point(None, 2 * p.bpp, p.psnr) for p in typical().points)
    published = Curve("paper", "published", {}, IMAGES, published=points)
    result = compare(typical(), published)
    assert result.rate.value == pytest.approx(-50.0)
    assert (result.mean_image_rate, result.image_count) == (None, 0)


def test_checks_of_a_sound_codec():
    estimates = tuple(tuple(8.0 * (n - 20) for n in row) for row in typical().byte_counts)
    found = check(curve(typical().byte_counts, typical().squared_errors, estimated_bits=estimates))
    assert found.monotone
    assert found.images_monotone == found.image_count == 2
    assert found.span == pytest.approx((32 + 28) / (8 + 8))
    assert found.estimate_ratio == pytest.approx(2000 / (2000 - 6 * 20))
    assert found.estimate_worst_extra_bytes == pytest.approx(100 - 1.01 * 80)
    assert found.within_estimate


def test_checks_notice_a_rate_that_does_not_rise_and_an_estimate_that_lies():
    counts = ((100, 200), (90, 400), (90, 300))
    estimates = ((800.0, 1600.0), (720.0, 3200.0), (720.0, 2000.0))
    found = check(curve(counts, typical().squared_errors, estimated_bits=estimates))
    assert not found.monotone
    assert found.images_monotone == 0
    assert found.estimate_worst_extra_bytes == pytest.approx(300 - 1.01 * 250)
    assert found.within_estimate is False


def test_without_estimates_there_is_no_verdict_on_them():
    found = check(typical())
    assert found.estimate_ratio is found.within_estimate is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "guess"}, "unknown kind 'guess'"),
        ({"squared_errors": None}, "both bytes and squared errors"),
        ({"byte_counts": None, "squared_errors": None}, "no measurements"),
        ({"byte_counts": ((1, 2),)}, "needs 3 rows of 2"),
        ({"squared_errors": ((1,), (2,), (3,))}, "needs 3 rows of 2"),
        ({"estimated_bits": ((1.0, 2.0),)}, "needs 3 rows of 2"),
        ({"encode_ms": (1.0,)}, "needs 3 times"),
        ({"qualities": (3, 2, 1)}, "qualities must rise"),
    ],
)
def test_inconsistent_curves_are_refused(change, message):
    base = typical()
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    with pytest.raises(OptionError, match=message):
        Curve(**{**fields, **change})
