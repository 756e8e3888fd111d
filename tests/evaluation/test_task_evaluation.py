"""Rate-accuracy: metrics, curves and what is made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.evaluation import task_curves, task_report
from icmh_rt.evaluation.rd import Encoded
from icmh_rt.evaluation.task_curves import TaskCurve, TaskPoint, TaskResults, load, rising
from icmh_rt.evaluation.task_metrics import AveragePrecision, Box, MeanIoU, TopK
from icmh_rt.evaluation.task_run import measure

# -- metrics ---------------------------------------------------------------------------------------


def test_top_k() -> None:
    metric = TopK()
    scores = np.array([0.1, 0.5, 0.3, 0.2, 0.05, 0.9, 0.0])
    for truth in (5, 1, 4, 6):  # first, second, sixth, seventh
        metric.add(scores, truth, (1, 1))
    metric.add(np.full(7, np.nan), 6, (1, 1))
    assert metric.result() == {"top1": 1 / 5, "top5": 2 / 5}
    with pytest.raises(OptionError, match="class 7"):
        metric.add(scores, 7, (1, 1))
    assert TopK().result() == {"top1": 0.0, "top5": 0.0}


def test_mean_iou_of_the_classes_that_occur() -> None:
    metric = MeanIoU(4)
    truth = np.array([[0, 0, 1], [1, 9, 9]])  # 9 is void
    metric.add(np.array([[0, 1, 1], [1, 2, 0]]), truth, (2, 3))
    # class 0: 1 of 2; class 1: 2 of 3; classes 2 and 3 do not occur where labels are known
    result = metric.result()
    assert result["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result["pixel_accuracy"] == 3 / 4
    with pytest.raises(OptionError, match="labels are"):
        metric.add(np.zeros((2, 2), int), truth, (2, 3))
    assert MeanIoU(3).result() == {"miou": 0.0, "pixel_accuracy": 0.0}


def detections(*rows: tuple[int, float, tuple[float, ...]]) -> SimpleNamespace:
    return SimpleNamespace(
        labels=np.array([row[0] for row in rows], np.int64),
        scores=np.array([row[1] for row in rows]),
        boxes=np.array([row[2] for row in rows]).reshape(-1, 4),
    )


def test_average_precision() -> None:
    pytest.importorskip("pycocotools", reason="the train extra is not installed")
    box, other = (0.1, 0.1, 0.5, 0.6), (0.6, 0.6, 0.9, 0.9)
    metric = AveragePrecision()
    metric.add(detections((3, 0.9, box), (3, 0.8, other)), [Box(3, box), Box(3, other)], (100, 200))
    assert metric.result() == pytest.approx({"ap50": 1.0, "ap": 1.0})
    # An IoU of 0.6 is right for AP50, and for 3 of the 10 thresholds (0.5, 0.55, 0.6) of AP.
    narrow = AveragePrecision()
    narrow.add(detections((0, 0.9, (0.0, 0.0, 0.6001, 1.0))), [Box(0, (0, 0, 1, 1))], (100, 100))
    assert narrow.result() == pytest.approx({"ap50": 1.0, "ap": 0.3})
    wrong = AveragePrecision()
    wrong.add(detections((1, 0.9, box)), [Box(3, box)], (100, 100))
    wrong.add(detections(), [], (50, 50))
    assert wrong.result() == {"ap50": 0.0, "ap": 0.0}
    assert AveragePrecision().result() == {"ap50": 0.0, "ap": 0.0}


# -- curves ----------------------------------------------------------------------------------------


def test_a_curve_that_falls_is_made_to_rise() -> None:
    assert rising([(1, 10), (2, 20), (3, 30)]) == [(1, 10), (2, 20), (3, 30)]
    assert rising([(3, 30), (1, 10), (2, 40)]) == [(1, 10), (2, 35)]
    assert rising([(1, 10), (2, 10), (3, 11)]) == [(1, 10), (3, 11)]
    assert rising([(1, 5), (2, 4), (3, 3)]) == [(1, 4)]


def curve(name: str, scale: float, kind: str = "codec") -> TaskCurve:
    points = [
        TaskPoint(q, scale * 0.01 * q, {"top1": 0.3 + 0.006 * q, "top5": 0.9}, (q, 2 * q))
        for q in (10, 30, 50, 70, 90)
    ]
    return TaskCurve(name, kind, {"width": 1.0}, tuple(points))


@pytest.fixture
def results() -> TaskResults:
    original = TaskCurve(
        "original", "original", {}, (TaskPoint(0, 0.0, {"top1": 0.9, "top5": 1.0}),)
    )
    curves = (original, curve("ours", 1.0), curve("half", 0.5), curve("jpeg", 4.0, "anchor"))
    return TaskResults("classification", "top1", curves, ("a", "b"), {"command": "icmh eval task"})


def test_half_the_rate_is_minus_fifty_percent(results: TaskResults) -> None:
    found = {(c.test, c.anchor): c for c in results.comparisons}
    assert set(found) == {("ours", "half"), ("half", "ours"), ("ours", "jpeg"), ("half", "jpeg")}
    assert found["half", "ours"].rate.value == pytest.approx(-50.0)
    assert found["ours", "half"].rate.value == pytest.approx(100.0)
    assert found["half", "jpeg"].rate.value == pytest.approx(-87.5)
    assert found["half", "ours"].accuracy.value > 5


def test_curves_without_a_common_accuracy_have_no_delta(results: TaskResults) -> None:
    high = TaskCurve(
        "high", "codec", {}, tuple(TaskPoint(q, q, {"top1": 0.99 + q / 1e4}) for q in (1, 2))
    )
    found = task_curves.compare(high, results.curves[1], "top1")
    assert found.rate is None and "share no interval" in found.problem


def test_json_round_trip(results: TaskResults, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(task_curves.to_json(results))
    assert task_curves.load(path) == results
    document = json.loads(path.read_text())
    assert document["schema"] == "icmh_rt.rate_accuracy" and len(document["comparisons"]) == 4
    for text in ("{}", "no json", json.dumps({**document, "schema_version": 9})):
        path.write_text(text)
        with pytest.raises(IcmhError):
            task_curves.load(path)


def test_table_page_and_figure(results: TaskResults, tmp_path: Path) -> None:
    assert "-50.0" in task_report.table(results)
    page = task_report.markdown(results, "A title", "f.svg")
    assert page.startswith("# A title\n") and "| half | ours | -50.0 |" in page
    assert "![Rate-accuracy curves](f.svg)" in page
    pytest.importorskip("matplotlib", reason="the dev extra is not installed")
    for _ in range(2):
        task_report.draw(results, tmp_path / "f.svg", "t")
        first = (tmp_path / "f.svg").read_bytes()
    assert b"original pictures" in first or b"<svg" in first


# -- measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """A codec that keeps so many levels of brightness."""

    name: str = "levels"
    kind: str = "codec"

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def open(self, quality: int) -> SimpleNamespace:
        step = 256 // quality
        images: list[np.ndarray] = []

        def encode(image: np.ndarray) -> Encoded:
            levels = image.astype(np.int32) // step
            images.append((levels * step).astype(np.uint8))
            return Encoded(levels.astype(np.uint8).tobytes()[:: 256 // quality])

        return SimpleNamespace(encode=encode, decode=lambda data: images[-1])


def test_measure(tmp_path: Path) -> None:
    paths = []
    for i, level in enumerate((10, 40, 130, 250)):
        Image.fromarray(np.full((8, 16, 3), level, np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")

    def predict(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The class is the quarter of the brightness."""
        assert size == (8, 16)
        return -np.abs(np.arange(4) * 64 + 16 - image.mean())

    seen = []
    curves = measure(
        [(Levels(), [4, 1, 4, 2])],
        paths,
        [0, 0, 2, 3],
        predict,
        TopK,
        lambda *step: seen.append(step),
    )
    assert [c.name for c in curves] == ["original", "levels"]
    assert curves[0].points[0].figures["top1"] == 1.0
    points = curves[1].points
    assert [p.quality for p in points] == [1, 2, 4]
    assert [p.figures["top1"] for p in points] == [0.5, 0.75, 1.0]
    assert points[0].byte_counts == (2, 2, 2, 2) and points[0].bpp == 8 * 2 / 128
    assert [step[:2] for step in seen] == [(i, 4) for i in (1, 2, 3, 4)]


# -- feature heads ---------------------------------------------------------------------------------


def test_features_go_to_the_network_without_a_picture(tmp_path: Path, capsys) -> None:
    """The command over streams that are decoded to features: the same as by hand."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx2torch")
    pytest.importorskip("pycocotools")
    from bare_bundle import bare_copy
    from feature_heads import random_head
    from task_networks import write_detector

    import icmh_rt
    from icmh_rt import bundle as bundles
    from icmh_rt import cli
    from icmh_rt.evaluation.task_data import predictor, reducer
    from icmh_rt.feature_files import save_feature_head
    from icmh_rt.tasks import FastestDet

    layer = "Concat_224"
    head = random_head(outputs=((layer, 6),), size=(64, 64))
    save_feature_head(tmp_path / "head.safetensors", "human", head)
    folder = bare_copy(tmp_path / "bundle")
    bundles.add_feature_head(folder, tmp_path / "head.safetensors")
    detector = write_detector(tmp_path / "detector.onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(2):
        pixels = rng.integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    command = ["eval", "task", "--task", "detection", "--data", str(tmp_path), "--net"]
    command += [f"fastestdet:{detector}", "--qualities", "30", "--anchors", "none", "--quiet"]
    command += ["--model", str(folder), "--widths", "0.25", "--device", "cpu"]
    assert cli.main([*command, "--features"]) == 2
    assert "needs --reduce" in capsys.readouterr().err
    output = tmp_path / "out.json"
    assert cli.main([*command, "--features", "--reduce", "--json", str(output)]) == 0
    found = load(output)
    assert [c.name for c in found.curves][-1] == "icmh_rt width 0.25, features"
    assert found.curves[-1].settings["decoded_to"] == "features"
    (coded,) = [c for c in found.curves if c.name == "icmh_rt width 0.25"]
    assert found.curves[-1].points[0].byte_counts == coded.points[0].byte_counts

    network = FastestDet(detector, [layer])
    metric = AveragePrecision()
    decoder = icmh_rt.Decoder(folder, device="cpu")
    for i in range(2):
        with Image.open(tmp_path / "images" / f"{i}.png") as image:
            small = reducer(network)(np.asarray(image))
        assert small.shape == (64, 64, 3)
        stream = icmh_rt.Encoder(0.25, quality=30, model=folder, device="cpu").encode(small)
        features = decoder.features(stream)
        prediction = predictor("detection", network)(features, (90, 120))
        with torch.no_grad():
            again = network.remainder()({layer: torch.from_numpy(features[layer])[None]})
        assert np.array_equal(prediction.boxes, network.interpret([again])[0].boxes)
        metric.add(prediction, [Box(0, (0.3, 0.3, 0.7, 0.7))], (90, 120))
    assert found.curves[-1].points[0].figures == metric.result()
