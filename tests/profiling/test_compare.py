"""What got slower between two profiles, with noise of known size."""

from __future__ import annotations

import copy

import pytest

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.profiling import report
from icmh_rt.profiling.compare import compare


def _slowed(document, factor, which=1, operation="encode", spread=None):
    """The document with one operation slower; windows up to ``spread`` apart."""
    changed = copy.deepcopy(document)
    found = changed["configurations"][which][operation]
    for name in ("p50", "p90", "p99"):
        for end, value in found["end_to_end"][name].items():
            found["end_to_end"][name][end] = None if value is None else value * factor
    for stage in found["stages"]:
        if stage["stage"] in ("g_a", "g_s"):
            stage["statistics"]["p50"]["value"] *= factor
    if spread is not None:
        for window, ratio in zip(found["windows"], (1 - spread, 1.0, 1 + spread), strict=True):
            window["p50_ms"] *= ratio
    return changed


def _verdicts(found):
    return {(row["name"].split()[-2], row["operation"]): row["verdict"] for row in found["rows"]}


def test_a_profile_beside_itself_is_the_same(document):
    found = compare(document, document)
    assert set(_verdicts(found).values()) == {"same"}
    assert (found["slower"], found["notes"]) == (0, [])
    assert all(row["ratio"]["value"] == 1.0 for row in found["rows"])


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.02, "same"), (1.05, "same"), (1.12, "slower"), (3.0, "slower"), (0.85, "faster")],
)
def test_verdicts_by_size_of_the_change(document, factor, verdict):
    found = compare(document, _slowed(document, factor))
    assert _verdicts(found)["1", "encode"] == verdict
    assert found["slower"] == (verdict == "slower")
    assert [v for k, v in _verdicts(found).items() if k != ("1", "encode")] == ["same"] * 3


def test_the_tolerance_decides(document):
    slowed = _slowed(document, 1.12)
    assert compare(document, slowed, 0.3)["slower"] == 0
    assert compare(document, _slowed(document, 1.04), 0.01)["slower"] == 1
    with pytest.raises(OptionError, match="tolerance"):
        compare(document, slowed, -0.1)


def test_noise_between_windows_excuses_what_it_could_have_done(document):
    assert compare(document, _slowed(document, 1.10))["slower"] == 1
    found = compare(document, _slowed(document, 1.10, spread=0.095))
    row = next(row for row in found["rows"] if row["operation"] == "encode" and row["noise"] > 0)
    assert row["noise"] == pytest.approx(0.095)
    assert row["verdict"] == "same"


def test_bounds_are_those_of_the_medians_at_their_worst(document):
    after = _slowed(document, 1.5)
    row = next(r for r in compare(document, after)["rows"] if r["ratio"]["value"] == 1.5)
    old = document["configurations"][1]["encode"]["end_to_end"]["p50"]
    new = after["configurations"][1]["encode"]["end_to_end"]["p50"]
    assert row["ratio"]["low"] == new["low"] / old["high"]
    assert row["ratio"]["high"] == new["high"] / old["low"]


@pytest.mark.parametrize("side", [0, 1])
def test_what_has_not_settled_is_not_judged(document, side):
    pair = [document, _slowed(document, 3.0)]
    pair[side] = copy.deepcopy(pair[side])
    pair[side]["configurations"][1]["encode"] |= {"headline_ms": None, "reason": "it drifts"}
    found = compare(*pair)
    assert found["slower"] == 0
    row = next(row for row in found["rows"] if row["verdict"] == "unclear")
    assert "it drifts" in row["why"] and ("earlier", "later")[side] in row["why"]
    assert "it drifts" in report.comparison(found)


def test_too_few_calls_are_not_judged(document):
    after = _slowed(document, 3.0)
    after["configurations"][1]["encode"]["end_to_end"]["p50"]["low"] = None
    found = compare(document, after)
    assert found["slower"] == 0
    assert "--iterations" in report.comparison(found)


def test_the_stage_that_grew_most_is_named(document):
    found = compare(document, _slowed(document, 1.5, operation="decode"))
    row = next(row for row in found["rows"] if row["verdict"] == "slower")
    assert row["stages"][0]["stage"] == "g_s"
    text = report.comparison(found)
    assert "SLOWER" in text and "1 slower by more than 5%" in text
    assert "decode: g_s" in text


def test_what_differs_between_the_machines_is_noted(document):
    after = copy.deepcopy(document)
    after["provenance"]["machine"]["cpu"] = "Another"
    after["settings"]["fingerprint"] = "ff"
    after["machine"]["jetson"] = {"model": "Orin", "release": "R36", "power_mode": "15W"}
    after["conditions"]["notes"] = ["other processes used 30% of the CPUs' time"]
    del after["configurations"][0]
    notes = " / ".join(compare(document, after)["notes"])
    for words in ("CPU: A CPU before, Another after", "bundle", "power mode", "1 configuration(s)"):
        assert words in notes
    assert "later profile: other processes" in notes


def test_nothing_in_common(document):
    after = copy.deepcopy(document)
    for record in after["configurations"]:
        record["size"] = [1, 1]
    with pytest.raises(IcmhError, match="no configuration in common"):
        compare(document, after)
