"""The document's schema: what it lets through, what it refuses, and that its page explains it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from icmh_rt.errors import IcmhError
from icmh_rt.profiling import schema

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "profiling.md"


def test_a_document_goes_through_a_file_and_back(document, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document))
    assert schema.load(path) == document
    assert schema.checked(document) is document


def test_fields_of_later_releases_are_let_through(document):
    document["new"] = {"anything": 1}
    document["configurations"][0]["new"] = None
    assert schema.fault(document) is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("configurations",), [], "configurations are none"),
        (("configurations",), {}, "configurations is no list"),
        (("configurations", 0, "width"), "1.0", "configurations[0].width is '1.0', not a float"),
        (("configurations", 1, "size", 0), 1.5, "configurations[1].size[0] is 1.5, not a int"),
        (("configurations", 0, "encode", "stable"), 1, "encode.stable is 1, not a bool"),
        (("configurations", 0, "encode", "end_to_end", "p50"), None, "p50 is no object"),
        (("configurations", 0, "encode", "stages", 0, "by"), "guess", "is 'guess', not one of"),
        (("configurations", 0, "bits_per_pixel"), float("nan"), "bits_per_pixel is nan"),
        (("configurations", 0, "quality"), True, "quality is True, not a int"),
        (("conditions", "notes"), [3], "conditions.notes[0] is 3, not a str"),
        (("provenance", "versions"), {"numpy": 1}, "provenance.versions.numpy is 1"),
    ],
)
def test_what_is_wrong_is_named(document, path, value, words):
    *inner, last = path
    part = document
    for key in inner:
        part = part[key]
    part[last] = value
    with pytest.raises(IcmhError, match=re.escape(words)):
        schema.checked(document)


def test_a_missing_field_is_named(document):
    del document["configurations"][1]["decode"]["stage_sum"]["ratio"]
    with pytest.raises(
        IcmhError, match=r"configurations\[1\]\.decode\.stage_sum\.ratio is missing"
    ):
        schema.checked(document)


def test_files_that_are_no_profiles(document, tmp_path):
    path = tmp_path / "other.json"
    for change, words in (
        ({"schema": "icmh_rt.rate_distortion"}, "its schema is 'icmh_rt.rate_distortion'"),
        ({"schema_version": 2}, "has schema version 2, this release reads 1"),
        ({"problems": None}, "problems is no list"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(IcmhError, match=words):
            schema.load(path)
    path.write_text("{")
    with pytest.raises(IcmhError, match="not a JSON results file"):
        schema.load(path)


def _fields(kind):
    if isinstance(kind, (schema.Maybe, schema.Each)):
        yield from _fields(kind.of)
    elif isinstance(kind, list):
        yield from _fields(kind[0])
    elif isinstance(kind, dict):
        for key, inner in kind.items():
            yield key
            yield from _fields(inner)


def test_every_field_is_explained():
    text = _PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert sorted(set(_fields(schema.DOCUMENT)) - named) == []
    for word in schema.HOW:
        assert f"`{word}`" in text
