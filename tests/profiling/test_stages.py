"""Where the time of one call goes: on the host's clock, on a device's, and inside of transforms."""

from __future__ import annotations

import types
from contextlib import nullcontext

import numpy as np
import pytest

from icmh_rt.backends.base import Stopwatch, device_lap, lap, measured_by, stopwatch
from icmh_rt.codec import Decoder, Encoder
from icmh_rt.profiling import operations, records, rounds, stages
from icmh_rt.profiling.nvtx import Ranges

torch = pytest.importorskip("torch")

from icmh_rt.backends._cuda_graphs import GraphRunner, Recording  # noqa: E402, needs torch

_IMAGE = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)


class _Device:
    """A GPU's stream: work that was given takes its time, one after the other, behind the host."""

    def __init__(self):
        self.now_ms = 0.0

    def work(self, ms):
        self.now_ms += ms

    def event(self):
        at = self.now_ms
        made = types.SimpleNamespace(at=at, synchronize=lambda: None)
        made.elapsed_time = lambda other: other.at - at
        return made


def test_laps_without_anybody_who_measures_do_nothing():
    lap("g_a")
    device_lap("g_a")
    assert stopwatch() is not stopwatch()


def test_one_watch_counts_all_that_is_called_in_its_block():
    watch = Stopwatch()
    with measured_by(watch):
        assert stopwatch() is watch
        lap("a")
        lap("b")
        lap("a")
    lap("c")
    assert list(watch.times) == ["a", "b"]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_stages_of_a_call_add_up_to_it(backend):
    pytest.importorskip(backend)
    encoder, decoder = Encoder(width=0.25, backend=backend), Decoder(backend=backend)
    data = encoder.encode(_IMAGE)
    instruments = stages.instruments_for(encoder.backend, Ranges())
    for call, names, order in (
        (lambda: encoder.encode_detailed(_IMAGE), {"read", "g_a", "h_a", "h_s"}, stages.ENCODE),
        (lambda: decoder.decode_detailed(data), {"parse", "h_s", "g_s"}, stages.DECODE),
    ):
        sums = []
        for _ in range(5):
            seconds, times = instruments.run("call", call)
            sums.append(sum(times.values()) / seconds)
        assert max(sums) <= 1.0
        assert max(sums) > 0.9  # a busy machine may stop a call between its last lap and its end
        assert names <= set(times) <= set(order)


def test_instrumented_calls_give_the_same_bytes_and_pictures():
    encoder, decoder = Encoder(width=0.5), Decoder()
    instruments = stages.instruments_for(encoder.backend, Ranges())
    found = []
    instruments.run("encode", lambda: found.append(encoder.encode_detailed(_IMAGE).data))
    assert found == [encoder.encode(_IMAGE)]
    report = decoder.decode_detailed(found[0])
    assert np.array_equal(report.image, decoder.decode(found[0]))
    assert sum(report.times.values()) > 0


def test_events_say_what_the_device_did_while_the_host_waited(monkeypatch):
    device = _Device()
    watch = stages.StageWatch(event=device.event)
    host = iter([1.0, 1.4, 1.5])
    monkeypatch.setattr("icmh_rt.backends.base.time.perf_counter", lambda: next(host))
    watch._last = 0.999
    with measured_by(watch):
        lap("upload")  # staging: 1 ms on the host
        device_lap("")
        for stage, ms in (("upload", 20), ("transforms", 300), ("download", 30)):
            device.work(ms)
            device_lap(stage)
        lap("device")
        lap("pack")
    times = watch.seconds()
    assert sum(times.values()) == pytest.approx(0.501)
    assert times["launch"] == pytest.approx(0.050)
    assert times["transforms"] == pytest.approx(0.300)
    assert times["upload"] == pytest.approx(0.021)
    assert times["download"] == pytest.approx(0.030)


def test_what_the_device_did_not_work_is_launching():
    device = _Device()
    watch = stages.StageWatch(event=device.event)
    watch.times["device"] = 0.010
    with measured_by(watch):
        device_lap("")
        device.work(6)
        device_lap("transforms")
        device_lap("")  # a second pass, in float32: nothing between belongs to a stage
        device.work(1)
        device_lap("transforms")
    assert watch.seconds() == pytest.approx({"transforms": 0.007, "launch": 0.003})


def test_nothing_is_recorded_while_a_graph_is():
    watch = stages.StageWatch(event=lambda: None)
    watch.device_lap("g_a")
    assert watch.seconds() == {}


def test_laps_wait_for_a_device_where_they_are_all_there_is():
    waited = []
    watch = stages.StageWatch(synchronize=lambda: waited.append(True))
    watch.lap("g_a")
    watch.lap("download")
    assert len(waited) == 2


def test_a_stage_is_divided_by_shares():
    times = {"g_a": 10.0, "h_a": 1.0}
    assert stages.divided(times, "g_a", {"h_a": 0.2, "adapters": 0.3}) == pytest.approx(
        {"g_a": 5.0, "h_a": 3.0, "adapters": 3.0}
    )
    assert stages.divided(times, "g_s", {"adapters": 0.3}) == times
    whole = stages.divided({"transforms": 4.0}, "transforms", {"g_a": 0.75, "h_a": 0.25})
    assert whole == pytest.approx({"g_a": 3.0, "h_a": 1.0})


def test_stages_come_in_their_order_and_unknown_ones_last():
    assert stages.ordered(["new", "pack", "read", "g_a"], stages.ENCODE) == [
        "read",
        "g_a",
        "pack",
        "new",
    ]


class _Machine:
    """What a `GraphRunner` needs, on a device that takes its time."""

    def __init__(self, device):
        self._device = device

    def section(self):
        return nullcontext()

    def stage(self, array):
        return torch.from_numpy(array)

    def upload(self, staged, target=None):
        self._device.work(2)
        return staged if target is None else target.copy_(staged)

    def record(self, body, staged):
        source = torch.empty_like(staged)
        device, device_now = self._device, self._device.now_ms
        result = body(source)
        self._device.now_ms = device_now  # a recording runs nothing

        def replay():
            device.work(5)
            result.copy_(source + 1)

        return Recording(types.SimpleNamespace(replay=replay), source, result)

    def download(self, result):
        self._device.work(3)
        return result.clone(), None

    def wait(self, ticket):
        pass

    def synchronize(self):
        pass


def test_a_graph_is_one_stage_between_its_copies_and_a_pass_without_it_has_parts():
    device = _Device()
    runner = GraphRunner(_Machine(device), warmup_calls=1)

    def body(x):
        device.work(4)
        device_lap("g_a")
        device.work(2)
        device_lap("h_a")
        return x + 1

    found = []
    for _ in range(3):
        watch = stages.StageWatch(event=device.event)
        with measured_by(watch):
            assert runner("key", body, np.zeros(2, np.float32)).tolist() == [1.0, 1.0]
        times = watch.seconds()
        times["upload"] -= watch.times["upload"]  # what the host's clock has of it
        found.append({name: round(1e3 * s, 6) for name, s in times.items() if name in _ON_DEVICE})
    parts = {"g_a": 4.0, "h_a": 2.0, "transforms_end": 0.0}
    assert found[0] == {"upload": 2.0, **parts, "download": 3.0}
    assert found[2] == {"upload": 2.0, "transforms": 5.0, "download": 3.0}
    assert runner.counts["replayed"] == 2


_ON_DEVICE = ("g_a", "h_a", "transforms", "transforms_end", "download", "upload")


def _subject(kind, backend, eager=None):
    subject = object.__new__(operations.Operation)
    subject.kind, subject._eager = kind, eager or {}
    subject.main = "g_a" if kind == "encode" else "g_s"
    subject.workload = types.SimpleNamespace(backend=backend)
    subject.covers = (subject.main,)
    subject._instruments = stages.Instruments(event=lambda: None)
    return subject


def test_differences_of_noise_are_no_more_than_the_whole():
    turns = [rounds.Turn(stages=[{"g_a": 1.0}], extras={"alone": 0.2, "base": 0.1})]
    shares = _subject("encode", None).shares(turns)
    assert sum(shares.values()) == pytest.approx(1.0)
    turns = [rounds.Turn(stages=[{"g_a": 1.0}], extras={"alone": 1.3, "base": 1.1})]
    assert _subject("encode", None).shares(turns) == {"h_a": 0.0, "adapters": 0.0}


def test_a_graphs_time_is_divided_by_the_shares_of_a_pass_without_it():
    subject = _subject("encode", None, {"g_a": 0.5, "adapters": 0.3, "h_a": 0.2})
    # The host's own lap at the end of the transforms is there as well, next to nothing.
    parts = {"upload": 1.0, "transforms": 10.0, "g_a": 0.001, "pack": 1.0}
    assert subject.taken_apart(parts, {}) == pytest.approx(
        {"upload": 1.0, "pack": 1.0, "g_a": 5.001, "adapters": 3.0, "h_a": 2.0}
    )
    assert [subject.how(name, {}) for name in ("g_a", "adapters", "h_a", "upload", "pack")] == [
        "share",
        "share",
        "share",
        "events",
        "clock",
    ]


def test_what_a_pass_without_a_graph_does_at_its_end_belongs_to_its_neighbour():
    encode, decode = _subject("encode", None), _subject("decode", None)
    parts = {"g_a": 5.0, "h_a": 2.0, "transforms_end": 0.5, "download": 1.0}
    assert encode.taken_apart(parts, {}) == {"g_a": 5.0, "h_a": 2.0, "download": 1.5}
    assert decode.taken_apart({"transforms": 4.0, "download": 1.0}, {}) == {
        "g_s": 4.0,
        "download": 1.0,
    }


def test_differences_are_shares_of_the_stage_that_they_are_in():
    subject = _subject("encode", None)
    turns = [
        rounds.Turn(stages=[{"g_a": whole}], extras={"alone": 0.8 * whole, "base": 0.7 * whole})
        for whole in (1.0, 2.0, 4.0)
    ]
    shares = subject.shares(turns)
    assert shares == pytest.approx({"h_a": 0.2, "adapters": 0.3})
    assert subject.taken_apart({"g_a": 10.0}, shares) == pytest.approx(
        {"g_a": 5.0, "h_a": 2.0, "adapters": 3.0}
    )
    assert subject.how("h_a", shares) == subject.how("g_a", shares) == "difference"


class _Library:
    """NVTX."""

    def __init__(self):
        self.said, self.depth = [], 0

    def push(self, name):
        self.depth += 1
        self.said.append(f"+{name}")

    def pop(self):
        self.depth -= 1
        assert self.depth >= 0
        self.said.append("-")


def test_ranges_are_named_by_the_stages_of_the_call_before():
    library = _Library()
    ranges = Ranges(library)
    for _ in range(2):
        library.said.clear()
        with ranges.call("encode"):
            ranges.lap("read")
            ranges.lap("g_a")
        assert library.depth == 0
    assert library.said == ["+encode", "+read", "-", "+g_a", "-", "+rest", "-", "-"]


def test_ranges_end_with_a_call_that_fails():
    library = _Library()
    ranges = Ranges(library)
    with ranges.call("encode"):
        ranges.lap("read")
    with pytest.raises(ZeroDivisionError), ranges.call("encode"):
        raise ZeroDivisionError
    assert library.depth == 0


def test_without_a_library_there_are_no_ranges():
    ranges = Ranges()
    assert not ranges
    with ranges.call("encode"):
        ranges.lap("read")


def test_adapters_are_timed_apart_while_they_are_hooked(adapted):
    encoder, decoder = Encoder(model=adapted, task="detection"), Decoder(model=adapted)
    data = encoder.encode(_IMAGE)
    for call in (lambda: encoder.encode_detailed(_IMAGE), lambda: decoder.decode_detailed(data)):
        instruments = stages.instruments_for(encoder.backend, Ranges())
        with stages.adapters_hooked(encoder.backend, "detection") as how:
            assert how == "hooks"
            _, times = instruments.run("call", call)
        assert times["adapters"] > 0
        _, times = instruments.run("call", call)
        assert "adapters" not in times


def test_the_base_has_no_adapters_to_hook():
    encoder = Encoder(width=0.25)
    with stages.adapters_hooked(encoder.backend, "human") as how:
        assert how == ""


@pytest.mark.parametrize(
    ("of_call", "low", "high", "within"),
    [
        (0.99, 0.98, 1.02, True),
        (0.94, 0.98, 1.02, False),
        (0.99, 1.01, 1.30, True),  # noise may have done it
        (0.99, 1.06, 1.30, False),
        (0.99, 0.70, 0.94, False),
        (0.99, None, None, True),
    ],
)
def test_a_sum_is_off_when_noise_alone_cannot_have_done_it(of_call, low, high, within):
    assert records._within_bar(of_call, {"value": 1.2, "low": low, "high": high}) is within
