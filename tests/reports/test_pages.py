from __future__ import annotations

import dataclasses
import json
import re

import pytest
import report_samples as samples
from test_markup import read

from icmh_rt.errors import IcmhError
from icmh_rt.evaluation.results import Results
from icmh_rt.evaluation.task_curves import TaskResults
from icmh_rt.reports import evaluation_page, profile_page, task_page

PAGES = {
    "rd": lambda: evaluation_page(samples.results(), "Photos", [samples.exhibit()]),
    "task": lambda: task_page(samples.task_results(), "Task", [samples.exhibit()]),
    "profile": lambda: profile_page(samples.profile(((256, 256), (512, 768)))),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_refers_to_nothing_outside(name):
    text = PAGES[name]()
    assert text.startswith("<!doctype html>\n<html") and text.rstrip().endswith("</html>")
    for tag, attributes in read(text).tags:
        for key in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith("data:"), (tag, value[:80])
    assert not re.search(r"@import|url\((?!#)", text)
    assert "Content-Security-Policy" in text
    for key in ("icmh", "a &lt;cpu&gt;", "2026-01-02"):
        assert key in text


def test_ids_are_unique_and_so_are_the_cuts_of_charts():
    text = PAGES["rd"]()
    ids = [attributes["id"] for _, attributes in read(text).tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) > 2


def test_figures_of_the_evaluation_are_on_its_page():
    results = samples.results()
    text = evaluation_page(results, "Photos")
    shown = read(text).text
    best = next(c for c in results.comparisons if c.test.endswith("width 1") and c.anchor == "jpeg")
    assert f"{best.rate.value:+.1f} %" in shown and f"{best.rate.value:+.2f}" in shown
    assert "paper <&>: anchor curve has only 2 points" in shown
    assert "quality 50" in shown and "MS-SSIM 0.9700" in shown
    assert "3 images (144x96)" in shown


def test_ugly_evaluations_have_pages():
    one = samples.results(count=1)
    single = dataclasses.replace(
        one.curves[0],
        qualities=(1,),
        byte_counts=((150,),),
        squared_errors=((0,),),  # exact: an infinite PSNR
        ms_ssims=None,
    )
    for curves in ((single,), (single, one.curves[2]), one.curves[2:3], one.curves[4:]):
        text = evaluation_page(Results(curves, {}), samples.NASTY)
        assert "<script>alert" not in text and "nan" not in read(text).text.split("use strict")[0]


def test_a_task_without_anchors_or_codecs_has_a_page():
    found = samples.task_results()
    for kept in (found.curves[:1], found.curves[:2], found.curves[3:]):
        text = task_page(TaskResults("detection", "top1", kept, ("a",), {}), "t")
        assert "top-1 accuracy" in text


def test_names_never_become_markup():
    pages = [
        evaluation_page(
            samples.results(samples.NASTY), samples.NASTY, [samples.exhibit(samples.NASTY)]
        ),
        profile_page(samples.profile(), samples.NASTY),
    ]
    for text in pages:
        tags = [tag for tag, _ in read(text).tags]
        assert "b" not in tags and tags.count("script") == 1
        assert not any("onerror" in attributes for _, attributes in read(text).tags)


# -- profiles --------------------------------------------------------------------------------------


def test_refused_figures_are_not_shown():
    document = samples.profile(stable=False)
    document["configurations"] = document["configurations"][:1]
    shown = read(profile_page(document)).text
    assert "three windows in a row never agreed within 10 %" in shown
    assert "no headline: <b>noise</b>" in shown
    table = shown[shown.index("Times of a call") : shown.index("Where the time goes")]
    assert "10.0 (" not in table and "8.50 (" in table


def test_everything_of_a_profile_is_on_its_page():
    page = profile_page(samples.profile(((256, 256), (512, 768))))
    for text in (
        "Time by width",
        "Growth with the size of the picture",
        "Throughput",
        "Peak memory",
        "Costs of the networks",
        "Power and energy",
        "From a new process to its first stream",
        "g_a: 17.5 ms, 70.0 %",
        "Instruments cost +0.4 %",
        "some &amp; GPU",
        "1.50 (1.47–1.53)",
    ):
        assert text in page, text


def every_null(value, path=()):
    """Paths of every leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from every_null(item, (*path, key))


REQUIRED = {"schema", "schema_version", "configurations", "growth"}


def test_what_is_not_known_is_left_out_wherever_it_is():
    """Any optional part of a document may be null: never a traceback, at worst one clear error."""
    whole = samples.profile(((512, 768), (1024, 1024)))
    whole["configurations"] = whole["configurations"][:2]
    refused = set()
    for path in list(every_null(whole)):
        if len(path) > 4 and path[1] not in (0,):
            continue
        document = json.loads(json.dumps(whole))
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = None
        try:
            text = profile_page(document)
        except IcmhError as error:
            assert "\n" not in str(error)
            refused.add(path[-1])
        else:
            assert "</html>" in text
    named = {key for key in refused if isinstance(key, str)}
    assert not named & {"provenance", "machine", "settings", "conditions", "memory", "energy"}
    assert not named & {
        "p50",
        "p90",
        "p99",
        "low",
        "high",
        "value",
        "headline_ms",
        "bits_per_pixel",
    }


@pytest.mark.parametrize("document", [{}, {"schema": "icmh_rt.profile", "schema_version": 2}])
def test_another_schema_is_one_clear_error(document):
    with pytest.raises(IcmhError, match=r"needs schema 'icmh_rt\.profile', version 1"):
        profile_page(document)


def test_many_configurations_have_the_fastest_and_the_slowest_on_top():
    sizes = ((256, 256), (512, 768), (1080, 1920))
    text = profile_page(samples.profile(sizes))
    top = text[text.index('class="tiles"') : text.index("Times of a call")]
    assert top.count('class="tile"') == 4


def test_bars_of_one_size_have_one_scale_and_mirrored_stages_one_colour():
    text = profile_page(samples.profile(((256, 256), (512, 768))))
    lengths = [float(v) for v in re.findall(r'style="width: ([\d.]+)%"><span', text)]
    encode, decode = lengths[:6], lengths[6:]
    assert encode == pytest.approx([40, 60, 100] * 2)  # 10, 15 and 25 ms at either size
    assert max(decode[:3]) == max(decode[3:]) == 100
    colors = dict(re.findall(r'<li><i class="(stage-\d)"></i>(g_[as])</li>', text))
    assert list(colors.values()) in (["g_s"], ["g_a"])  # one class for both: the later one stays


def test_values_far_apart_have_a_logarithmic_axis():
    document = samples.profile(((256, 256), (512, 768)))
    for configuration in document["configurations"][3:]:
        median = configuration["encode"]["end_to_end"]["p50"]
        for key in median:
            median[key] *= 30
    text = profile_page(document)
    encode = text[text.index("Median time to encode") : text.index("Median time to decode")]
    decode = text[text.index("Median time to decode") : text.index("Growth with")]
    assert ">10<" in encode and ">500<" in encode and ">0<" not in encode
    assert ">0<" in decode
