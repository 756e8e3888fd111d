"""The TensorRT backend over fakes: of CUDA, whose memory is checked, and of TensorRT, whose
interface is that of real versions. What only a GPU can show is not shown here; docs/deploy.md says
what that is.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import threading

import fake_tensorrt
import numpy as np
import onnx
import pytest

import icmh_rt
from icmh_rt import bundle as bundles
from icmh_rt import graphs
from icmh_rt.backends import _cuda_runtime, _tensorrt_library, _tensorrt_plans
from icmh_rt.backends import tensorrt as backend_module
from icmh_rt.backends._tensorrt_builder import BuildOptions, ImageSizes, build, inspect
from icmh_rt.backends._tensorrt_engine import Device, PlanRunner
from icmh_rt.backends._tensorrt_graph import for_parser, with_magnitude
from icmh_rt.errors import BackendUnavailableError, OptionError

RTX = "rtx1.7"
WIDTH = 0.25


@pytest.fixture(scope="session")
def cudart(tmp_path_factory):
    return fake_tensorrt.compile_cudart(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def fakes(request, monkeypatch, cudart, tmp_path):
    """(library, cuda) of every version; plans are kept in a folder of the test's own."""
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(tmp_path / "plans"))
    yield from fake_tensorrt.installed(monkeypatch, request.param, cudart)


@pytest.fixture
def fake(monkeypatch, cudart, tmp_path):
    """(library, cuda) of one version."""
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(tmp_path / "plans"))
    yield from fake_tensorrt.installed(monkeypatch, "10.3", cudart)


@pytest.fixture(scope="session")
def bundle():
    return bundles.load("default")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack((x * 3, y * 2, x + y), axis=-1) % 256
    return np.clip(base + rng.integers(-20, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def reference(bundle, role, inputs, precision="fp32"):
    """The graph itself, run by onnxruntime."""
    model = graphs.build(bundle, role, WIDTH, precision=precision)
    return fake_tensorrt.onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, inputs)


def analysis_graph(bundle, precision="fp32"):
    return for_parser(graphs.build(bundle, "analysis", WIDTH, precision=precision))


def a_runner(fake, bundle, sizes=None, **options):
    library, _ = fake
    built = build(library, analysis_graph(bundle), options_of(library, sizes))
    device = Device(_cuda_runtime.runtime(), 0)
    return PlanRunner(library, device, built.plan, **options)


def options_of(library, sizes=None, **more):
    code = "8.6" if library.builds_for_others else ""
    return BuildOptions(sizes=sizes or ImageSizes(), compute_capability=code, **more)


def header(plan):
    """What the fake builder was told."""
    return json.loads(plan[len(fake_tensorrt._MAGIC) :])


# -- building --------------------------------------------------------------------------------------


def test_every_version_builds_strongly_typed_without_tf32(fakes, bundle):
    library, _ = fakes
    built = build(
        library,
        analysis_graph(bundle),
        options_of(library, workspace_mib=64, optimization_level=4),
    )
    told = header(built.plan)
    assert told["strongly_typed"]
    assert "TF32" not in told["flags"]
    assert told["workspace"] == 64 << 20
    assert told["level"] == 4
    assert told["verbosity"] == "ProfilingVerbosity.DETAILED"
    assert told["profile"]["image"] == [[1, 1, 1, 3], [1, 512, 768, 3], [1, 4096, 4096, 3]]
    assert told["capabilities"] == (["ComputeCapability.SM86"] if library.builds_for_others else [])
    assert built.seconds >= 0 and len(built.layers) > 20


def test_synthesis_has_its_sides_as_shape_inputs(fakes, bundle):
    library, _ = fakes
    graph = for_parser(with_magnitude(graphs.build(bundle, "synthesis", WIDTH)))
    told = header(build(library, graph, options_of(library)).plan)
    assert told["profile"]["height"] == [[1], [512], [4096]]
    assert told["profile"]["width"] == [[1], [768], [4096]]
    assert told["profile"]["y_hat"][2][:3] == [1, 256, 256]


def test_one_size_needs_no_profile(fake, bundle):
    library, _ = fake
    sizes = ImageSizes((64, 96), (64, 96), (64, 96))
    graph = for_parser(graphs.build(bundle, "synthesis", WIDTH, size=(64, 96), batch=1))
    assert header(build(library, graph, options_of(library, sizes)).plan)["profile"] == {}


def test_only_rtx_builds_for_other_gpus(fakes, bundle):
    library, _ = fakes
    graph = analysis_graph(bundle)
    if library.name == "tensorrt_rtx":
        with pytest.raises(OptionError, match=r"9\.9: use one of .*8\.6"):
            build(library, graph, BuildOptions(compute_capability="9.9"))
    else:
        with pytest.raises(OptionError, match="builds for the GPU that is here"):
            build(library, graph, BuildOptions(compute_capability="8.6"))


def test_without_a_gpu_tensorrt_does_not_start(fakes, bundle):
    library, cuda = fakes
    graph = analysis_graph(bundle)
    plan = build(library, graph, options_of(library)).plan
    cuda.set("devices", 0)
    if library.builds_for_others:
        assert build(library, graph, options_of(library)).plan
        return
    with pytest.raises(BackendUnavailableError, match=r"could not start its builder: .*is there a"):
        build(library, graph, options_of(library))
    with pytest.raises(BackendUnavailableError, match="could not start its runtime"):
        inspect(library, plan)


def test_flags_of_the_options(fakes, bundle, tmp_path):
    library, _ = fakes
    options = options_of(library, version_compatible=True, any_ampere=True)
    told = header(build(library, analysis_graph(bundle), options).plan)
    assert "VERSION_COMPATIBLE" in told["flags"]
    assert told["hardware"] == "HardwareCompatibilityLevel.AMPERE_PLUS"


def test_timing_cache_is_kept_and_pins_tactics(fake, bundle, tmp_path):
    library, _ = fake
    graph, cache = analysis_graph(bundle), tmp_path / "tactics.cache"
    pinned = options_of(library, pin_tactics=True)
    with pytest.raises(BackendUnavailableError, match="timing cache miss"):
        build(library, graph, pinned, cache)
    build(library, graph, options_of(library), cache)
    assert cache.read_bytes() == b"tactics"
    build(library, graph, pinned, cache)
    cache.write_bytes(b"of another GPU")  # refused, and measured anew
    build(library, graph, options_of(library), cache)
    assert cache.read_bytes() == b"tactics"


def test_refused_graphs_are_told_with_the_parsers_words(fake, bundle):
    library, _ = fake
    model = graphs.build(bundle, "synthesis", WIDTH)
    last = model.graph.node[-1]
    extra = onnx.helper.make_node("Identity", [last.output[0]], ["bytes"], name="more")
    model.graph.node.append(extra)
    model.graph.output[0].name = "bytes"
    with pytest.raises(BackendUnavailableError, match=r"parse the graph.*does not support UINT8"):
        build(library, model.SerializeToString(), options_of(library))
    assert header(build(library, for_parser(model), options_of(library)).plan)


def test_half_precision_in_the_integer_network_is_refused(fake):
    library, _ = fake
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["half"], name="exact/half", to=10),
            helper.make_node("Cast", ["half"], ["y"], name="y", to=1),
        ],
        "g",
        [helper.make_tensor_value_info("image", 1, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("y", 1, ["N", "H", "W", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(icmh_rt.errors.BundleError, match=r"'exact/half'.* in HALF"):
        build(library, model.SerializeToString(), options_of(library))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"least": (0, 1)}, "must ascend"),
        ({"least": (600, 1)}, "smallest, best and largest height"),
        ({"most": (4096, 700)}, "largest width"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_sizes_that_make_no_sense(arguments, message):
    with pytest.raises(OptionError, match=message):
        ImageSizes(**arguments)


def test_inspector(fakes, bundle):
    library, _ = fakes
    plan = build(library, analysis_graph(bundle), options_of(library)).plan
    assert any("g_a" in layer["Name"] for layer in inspect(library, plan))
    with pytest.raises(BackendUnavailableError, match=r"load the plan.*another version"):
        inspect(library, b"nonsense")


# -- running ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 50), (65, 64)])
def test_runner_gives_what_the_graph_gives(fakes, bundle, size):
    runner = a_runner(fakes, bundle)
    image = picture(*size)[None]
    wanted = dict(zip(("y", "z"), reference(bundle, "analysis", {"image": image}), strict=True))
    for _ in range(3):  # eager, recorded, replayed
        found = runner({"image": image})
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)
    assert runner.counts == {"eager": 1, "replayed": 2, "recorded": 1, "evicted": 0}


def test_nothing_is_allocated_once_a_shape_is_known(fake, bundle):
    _, cuda = fake
    runner = a_runner(fake, bundle)
    for seed in range(2):
        runner({"image": picture(32, 48, seed)[None]})
    before = {name: cuda.counter(name) for name in ("allocated", "live", "live_graphs", "launches")}
    outputs = [runner({"image": picture(32, 48, seed)[None]}) for seed in range(5)]
    after = {name: cuda.counter(name) for name in before}
    assert after.pop("launches") == before.pop("launches") + 5  # one each: copies and engine
    assert after == before
    assert not np.shares_memory(outputs[0]["y"], outputs[1]["y"])
    assert np.abs(outputs[0]["y"] - outputs[1]["y"]).max() > 0


def test_inputs_of_any_strides(fake, bundle):
    runner = a_runner(fake, bundle)
    image = picture(32, 96)
    strided = image[:, ::-2]
    wanted = runner({"image": np.ascontiguousarray(strided)[None]})["y"]
    np.testing.assert_array_equal(runner({"image": strided[None]})["y"], wanted)


def test_the_shape_used_longest_ago_makes_room(fake, bundle):
    _, cuda = fake
    graphs_before = cuda.counter("live_graphs")
    runner = a_runner(fake, bundle, capacity=2)
    for _ in range(2):
        for side in (16, 32, 48):
            image = picture(side, side)[None]
            wanted = reference(bundle, "analysis", {"image": image})[0]
            np.testing.assert_array_equal(runner({"image": image})["y"], wanted)
    assert runner.counts["evicted"] == 4
    live = cuda.counter("live")
    runner.close()
    assert cuda.counter("live") == live - 2 * (2 * 3)  # an image and two latents, at both ends
    assert cuda.counter("live_graphs") == graphs_before


def test_forgotten_runners_give_everything_back(fake, bundle):
    _, cuda = fake
    before = [cuda.counter(name) for name in ("live", "live_graphs", "live_streams")]
    backend = backend_module.create(bundle, "cuda", "fp32")
    for _ in range(3):
        backend.analysis(picture(16, 16), WIDTH, "human")
    assert cuda.counter("live_streams") == before[2] + 1
    del backend
    gc.collect()
    assert [cuda.counter(name) for name in ("live", "live_graphs", "live_streams")] == before


def test_larger_scratch_memory_records_again(fake, bundle):
    """Recordings hold the scratch memory's address."""
    runner = a_runner(fake, bundle)
    small, large = picture(16, 16)[None], picture(160, 160)[None]
    wanted = runner({"image": small})["y"]
    runner({"image": small})
    assert runner.counts["recorded"] == 1
    runner({"image": large})
    np.testing.assert_array_equal(runner({"image": small})["y"], wanted)
    assert runner.counts["recorded"] == 2


def test_failed_recordings_leave_it_eager(fake, bundle):
    _, cuda = fake
    runner = a_runner(fake, bundle)
    cuda.set("fail_captures", 1)
    image = picture(16, 16)[None]
    wanted = runner({"image": image})["y"]
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be recorded"):
        np.testing.assert_array_equal(runner({"image": image})["y"], wanted)
    runner({"image": image})
    assert runner.counts["eager"] == 3 and list(runner.reasons) == [((1, 16, 16, 3),)]


def test_graphs_can_be_switched_off(fake, bundle, monkeypatch):
    runner = a_runner(fake, bundle)
    monkeypatch.setenv("ICMH_CUDA_GRAPHS", "0")
    for _ in range(3):
        runner({"image": picture(16, 16)[None]})
    assert runner.counts["eager"] == 3
    monkeypatch.setenv("ICMH_CUDA_GRAPHS", "maybe")
    with pytest.raises(OptionError, match="ICMH_CUDA_GRAPHS is 'maybe'"):
        runner({"image": picture(16, 16)[None]})


def test_inputs_that_do_not_fit(fake, bundle):
    sizes = ImageSizes((1, 1), (32, 32), (64, 64))
    runner = a_runner(fake, bundle, sizes)
    with pytest.raises(OptionError, match="needs an input 'image'"):
        runner({})
    with pytest.raises(OptionError, match="float32"):
        runner({"image": np.zeros((1, 16, 16, 3), np.float32)})
    with pytest.raises(OptionError, match="takes uint8"):
        runner({"image": np.zeros((1, 16, 16, 4), np.uint8)})
    with pytest.raises(BackendUnavailableError, match=r"could not take 'image' of shape \(1, 65"):
        runner({"image": picture(65, 64)[None]})
    runner({"image": picture(64, 64)[None]})


def test_no_memory_is_an_error_that_says_so_and_leaks_nothing(fake, bundle):
    _, cuda = fake
    runner = a_runner(fake, bundle)
    runner({"image": picture(16, 16)[None]})
    live = cuda.counter("live")
    cuda.set("memory_limit", 1)
    with pytest.raises(BackendUnavailableError, match="out of memory"):
        runner({"image": picture(512, 512)[None]})
    assert cuda.counter("live") == live
    cuda.set("memory_limit", 2**62)
    runner({"image": picture(16, 16)[None]})
    runner({"image": picture(512, 512)[None]})


def test_many_threads(fake, bundle):
    runner = a_runner(fake, bundle)
    images = [picture(16 + 16 * (i % 3), 32, i)[None] for i in range(12)]
    wanted = [reference(bundle, "analysis", {"image": image})[0] for image in images]
    found = [None] * len(images)

    def work(first):
        for i in range(first, len(images), 4):
            found[i] = runner({"image": images[i]})["y"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rtx_keeps_the_kernels_that_it_compiles(cudart, monkeypatch, bundle, tmp_path):
    for fakes in fake_tensorrt.installed(monkeypatch, RTX, cudart):
        kernels = tmp_path / "kernels"
        a_runner(fakes, bundle, kernels=kernels)({"image": picture(16, 16)[None]})
        assert kernels.read_bytes() == b"kernels"
        kernels.write_bytes(b"kernels of an earlier run")
        a_runner(fakes, bundle, kernels=kernels)({"image": picture(16, 16)[None]})
        assert kernels.read_bytes() == b"kernels of an earlier run"


# -- the backend -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_latents_and_pictures(fakes, bundle, dtype):
    backend = backend_module.create(bundle, "auto", dtype)
    image = picture(50, 70)
    latents = backend.encode_transforms(image, WIDTH, "human", 50)
    y, z = reference(bundle, "analysis", {"image": image[None]}, dtype)
    coding = backend.coding(WIDTH, 50)
    np.testing.assert_array_equal(latents.symbols_z, coding.quantize_hyper(z[0]))
    np.testing.assert_array_equal(latents.symbols_y, coding.quantize(y[0], latents.prediction))
    y_hat = coding.dequantize(latents.symbols_y, latents.prediction)
    found = backend.synthesis(y_hat, WIDTH, "human", (50, 70))
    sides = {"height": np.array(50), "width": np.array(70)}
    wanted = reference(bundle, "synthesis", {"y_hat": y_hat[None], **sides}, dtype)[0]
    np.testing.assert_array_equal(found, wanted[0])
    assert found.dtype == np.uint8 and found.shape == (50, 70, 3)


def test_one_engine_draws_pictures_of_many_sizes_from_equal_latents(fake, bundle):
    """The sides are not in the latent's shape."""
    backend = backend_module.create(bundle, "cuda", "fp32")
    y_hat = np.random.default_rng(0).normal(0, 3, (2, 3, 192)).astype(np.float32)
    for size in ((32, 48), (17, 33), (32, 48), (31, 40)) * 3:
        image = backend.synthesis(y_hat, WIDTH, "human", size)
        sides = dict(zip(("height", "width"), map(np.array, size), strict=True))
        wanted = reference(bundle, "synthesis", {"y_hat": y_hat[None], **sides})[0]
        np.testing.assert_array_equal(image, wanted[0])


def test_features(fakes, bundle):
    """And a head of their own for each: plans are kept, heads are replaced."""
    from dataclasses import replace

    from feature_heads import TASK, random_head

    y_hat = np.random.default_rng(0).normal(0, 3, (2, 3, 192)).astype(np.float32)
    seen = []
    for seed in (0, 1, 0):
        head = random_head(seed)
        fed = replace(bundle, feature_heads={TASK: head})
        backend = backend_module.create(fed, "cuda", "fp32")
        found = backend.features(y_hat, WIDTH, TASK, (32, 48))
        wanted = reference(fed, "features", {"y_hat": y_hat[None]})
        assert list(found) == [name for name, _ in head.outputs]
        for one, there in zip(found.values(), wanted, strict=True):
            np.testing.assert_array_equal(one, there[0])
        seen.append(found[head.outputs[0][0]])
    assert np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("value", [np.inf, np.nan, 7e4])
def test_values_that_leave_half_precision_are_computed_again(fake, bundle, value):
    backend = backend_module.create(bundle, "cuda", "fp16")
    y_hat = np.random.default_rng(0).normal(0, 3, (2, 2, 192)).astype(np.float32)
    y_hat[1, 1] = 7e4 if np.isfinite(value) else value
    backend.synthesis(y_hat, WIDTH, "human", (32, 32))
    kinds = {key[3] for key in backend._runners}
    assert kinds == {"fp16", "fp32"}


def test_features_that_leave_half_precision_are_computed_again(fake, bundle):
    from dataclasses import replace

    from feature_heads import TASK, random_head

    backend = backend_module.create(
        replace(bundle, feature_heads={TASK: random_head()}), "cuda", "fp16"
    )
    y_hat = np.random.default_rng(0).normal(0, 3, (2, 2, 192)).astype(np.float32)
    backend.features(y_hat, WIDTH, TASK, (32, 32))
    assert {key[3] for key in backend._runners} == {"fp16"}
    y_hat[1, 1] = 7e4
    found = backend.features(y_hat, WIDTH, TASK, (32, 32))
    assert {key[3] for key in backend._runners} == {"fp16", "fp32"}
    assert all(np.isfinite(one).all() for one in found.values())


def test_ordinary_pictures_need_no_second_engine(fake, bundle):
    backend = backend_module.create(bundle, "cuda", "auto")
    latents = backend.encode_transforms(picture(32, 32), WIDTH, "human", 50)
    coding = backend.coding(WIDTH, 50)
    y_hat = coding.dequantize(latents.symbols_y, latents.prediction)
    backend.synthesis(y_hat, WIDTH, "human", (32, 32))
    assert {key[3] for key in backend._runners} == {"fp16"}


def test_building_is_announced_and_done_once(fake, bundle, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        backend_module.create(bundle, "cuda", "fp32").analysis(picture(16, 16), WIDTH, "human")
    assert sum("building a TensorRT engine" in r.message for r in caplog.records) == 1
    caplog.clear()
    backend_module.create(bundle, "cuda", "fp32").analysis(picture(32, 16), WIDTH, "human")
    assert not caplog.records
    assert len(list((tmp_path / "plans").glob("*.plan"))) == 1


def test_images_above_the_usual_sizes_get_an_engine(fake, bundle):
    assert backend_module.sizes_for((4096, 4096)) == ImageSizes()
    assert backend_module.sizes_for((100, 4097)).most == (4096, 5120)
    backend = backend_module.create(bundle, "cuda", "fp32")
    backend.analysis(picture(16, 16), WIDTH, "human")
    backend.analysis(picture(1, 4100), WIDTH, "human")
    assert [s.most for s, _ in backend._runners["analysis", WIDTH, "human", "fp32"]] == [
        (4096, 4096),
        (4096, 5120),
    ]


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_streams_decode_with_other_backends_and_back(fake, bundle, name):
    pytest.importorskip(name, reason="the other backend of this test")
    from icmh_rt.backends import create

    ours = backend_module.create(bundle, "cuda", "fp32")
    other = create(bundle, name, "cpu", "fp32")
    image = picture(45, 61)
    for first, second in ((ours, other), (other, ours)):
        made = first.encode_transforms(image, WIDTH, "human", 30)
        coding = second.coding(WIDTH, 30)
        again = coding.predict(made.symbols_z, image.shape[:2])
        np.testing.assert_array_equal(again.indexes, made.indexes_y)
        y_hat = coding.dequantize(made.symbols_y, again)
        pictures = [b.synthesis(y_hat, WIDTH, "human", (45, 61)) for b in (first, second)]
        assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:x", "tpu", "cuda:-1", None, 3])
def test_devices_that_are_no_gpu(fake, bundle, device):
    with pytest.raises(OptionError, match=r"use (device )?auto, "):
        backend_module.create(bundle, device, "auto")


def test_devices_that_are_not_here(fake, bundle):
    _, cuda = fake
    with pytest.raises(BackendUnavailableError, match=r"cuda:1.*sees 1 device"):
        backend_module.create(bundle, "cuda:1", "auto")
    cuda.set("devices", 0)
    with pytest.raises(BackendUnavailableError, match="no CUDA-capable device is detected"):
        backend_module.create(bundle, "auto", "auto")


def test_dtypes(fake, bundle):
    with pytest.raises(OptionError, match="'bf16' is not for backend tensorrt"):
        backend_module.create(bundle, "auto", "bf16")


# -- plans -----------------------------------------------------------------------------------------


def built_plan(fake, bundle, tmp_path):
    backend = backend_module.create(bundle, "cuda", "fp32")
    backend.analysis(picture(16, 16), WIDTH, "human")
    identity = backend.identity("analysis", WIDTH, "human", "fp32", ImageSizes())
    return identity, tmp_path / "plans" / identity.name


def test_plan_names_tell_what_they_are_for(fakes, bundle, tmp_path):
    library, _ = fakes
    _, path = built_plan(fakes, bundle, tmp_path)
    assert path.exists()
    where = "sm86" if library.name == "tensorrt_rtx" else "unknown-gpu-sm86"
    assert path.name == (
        f"default-{bundle.fingerprint[:8]}_human_w0.25_analysis_fp32_1x1-512x768-4096x4096_"
        f"{where}_{library.label}.plan"
    )
    record = json.loads(path.with_name(path.name + ".json").read_text())
    target = record["identity"]["target"]
    assert target["library"] == f"{library.name} {library.version}"
    assert target["driver"].startswith("any" if library.name == "tensorrt_rtx" else "12.8")
    assert record["size_bytes"] == path.stat().st_size


def test_stale_plans_say_why(fake, bundle, tmp_path):
    from dataclasses import replace

    identity, path = built_plan(fake, bundle, tmp_path)
    stale = _tensorrt_plans.stale
    assert stale(path, identity) == ""
    assert stale(path, replace(identity, weights="0" * 32)).startswith("changed: weights")
    driver = replace(identity, target=replace(identity.target, driver="13.0"))
    assert "target.driver" in stale(path, driver)
    assert stale(path, driver, any_driver=True) == ""
    library = replace(identity, target=replace(identity.target, library="tensorrt 10.4"))
    assert "target.library tensorrt 10.3.0 -> tensorrt 10.4" in stale(path, library)
    assert "version" in stale(path, replace(identity, version="0.0"))
    assert stale(path, identity, "0" * 64) == "the graph has changed"
    assert stale(path.with_name("other.plan"), identity) == "there is none"
    path.write_bytes(path.read_bytes() + b" ")
    assert stale(path, identity) == "it is damaged"
    path.with_name(path.name + ".json").write_text("[]")
    assert "cannot be read" in stale(path, identity)


def test_damaged_plans_are_built_anew(fake, bundle, tmp_path, caplog):
    _, path = built_plan(fake, bundle, tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])
    backend_module.create(bundle, "cuda", "fp32").analysis(picture(16, 16), WIDTH, "human")
    assert path.read_bytes() == sound


def test_plans_of_another_version_are_left_alone(cudart, monkeypatch, bundle, tmp_path):
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(tmp_path / "plans"))
    for version in ("10.3", "11.4"):
        for fakes in fake_tensorrt.installed(monkeypatch, version, cudart):
            built_plan(fakes, bundle, tmp_path)
    assert len(list((tmp_path / "plans").glob("*.plan"))) == 2


def test_exported_folders_are_found_first(fake, bundle, tmp_path, monkeypatch):
    built_plan(fake, bundle, tmp_path)
    mine = tmp_path / "mine"
    (tmp_path / "plans").rename(mine)
    monkeypatch.setenv(_tensorrt_plans.PLANS, str(mine))
    backend_module.create(bundle, "cuda", "fp32").analysis(picture(16, 16), WIDTH, "human")
    assert not list((tmp_path / "plans").glob("*.plan"))
    monkeypatch.setenv(_tensorrt_plans.PLANS, str(tmp_path / "none"))
    with pytest.raises(OptionError, match="which is no folder"):
        backend_module.create(bundle, "cuda", "fp32").analysis(picture(16, 16), WIDTH, "human")


def test_of_several_plans_the_one_made_for_least_is_taken(fake, bundle, tmp_path):
    """An engine of one size where it fits, else the one for all."""
    from dataclasses import replace

    identity, path = built_plan(fake, bundle, tmp_path)
    size = (32, 48)
    fixed = replace(identity, options=replace(identity.options, sizes=ImageSizes(size, size, size)))
    graph = backend_module.graph_of(bundle, fixed)
    built = build(fake[0], graph, fixed.options)
    _tensorrt_plans.save(path.parent, fixed, built, graph)
    assert _tensorrt_plans.find(identity, [size]).path.name == fixed.name
    assert _tensorrt_plans.find(identity, [(32, 49)]).path == path
    assert _tensorrt_plans.find(identity, [(5000, 48)]) is None
    backend = backend_module.create(bundle, "cuda", "fp32")
    image = picture(*size)
    wanted = reference(bundle, "analysis", {"image": image[None]})[0][0]
    np.testing.assert_allclose(backend.analysis(image, WIDTH, "human").y, wanted, atol=1e-4)
    assert backend._runners["analysis", WIDTH, "human", "fp32"][0][0].label == "32x48"


def test_other_drivers_will_do_in_folders_that_were_named(fake, bundle, tmp_path, monkeypatch):
    identity, path = built_plan(fake, bundle, tmp_path)
    record = path.with_name(path.name + ".json")
    record.write_text(record.read_text().replace('"driver": "', '"driver": "of another machine '))
    assert _tensorrt_plans.find(identity, [(16, 16)]) is None
    mine = tmp_path / "mine"
    path.parent.rename(mine)
    monkeypatch.setenv(_tensorrt_plans.PLANS, str(mine))
    assert _tensorrt_plans.find(identity, [(16, 16)]).path.parent == mine


def test_eight_bit_plans_are_no_plans_of_full_precision(fake, bundle, tmp_path):
    from dataclasses import replace

    identity, _ = built_plan(fake, bundle, tmp_path)
    assert _tensorrt_plans.find(replace(identity, eight_bits="int8")) is None
    assert _tensorrt_plans.find(replace(identity, gate="cuda")) is None
    assert _tensorrt_plans.find(replace(identity, adapters="0" * 16)) is None


def test_files_that_are_no_plans_are_passed_over(fake, bundle, tmp_path):
    identity, path = built_plan(fake, bundle, tmp_path)
    for i, text in enumerate(("", "[]", "{}", '{"format": 1}', '{"identity": {"options": 3}}')):
        stray = path.with_name(path.name.replace("1x1-", f"{i}-"))
        stray.write_bytes(b"stray")
        stray.with_name(stray.name + ".json").write_text(text)
    path.with_name(path.name.replace("1x1-", "lonely-")).write_bytes(b"without a record")
    assert _tensorrt_plans.find(identity, [(16, 16)]).path == path


def test_folders_that_others_can_write_to_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "open"
    folder.mkdir()
    os.chmod(folder, 0o777)
    monkeypatch.setenv(_tensorrt_plans.FOLDER, str(folder))
    with pytest.raises(BackendUnavailableError, match="written by others"):
        _tensorrt_plans.cache_folder()
    os.chmod(folder, 0o700)
    assert _tensorrt_plans.cache_folder() == folder


def test_new_cache_folders_are_private(tmp_path, monkeypatch):
    monkeypatch.delenv(_tensorrt_plans.FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = _tensorrt_plans.cache_folder()
    assert folder == tmp_path / "icmh_rt" / "tensorrt"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_weights_identify_bundles_that_were_never_saved(bundle):
    from dataclasses import replace

    nameless = replace(bundle, fingerprint="")
    other = dict(bundle.transforms)
    name = next(iter(other))
    other[name] = other[name] + 1
    changed = replace(nameless, transforms=other)
    weights = [_tensorrt_plans.weights_of(b) for b in (bundle, nameless, changed)]
    assert len(set(weights)) == 3 and weights[0] == bundle.fingerprint


# -- libraries -------------------------------------------------------------------------------------


def test_missing_libraries_say_what_to_install(monkeypatch):
    monkeypatch.setattr(_tensorrt_library, "_spec", lambda module: None)
    monkeypatch.setattr(_tensorrt_library, "_loaded", {})
    monkeypatch.setattr(_tensorrt_library, "_failures", {})
    assert "pip install tensorrt" in _tensorrt_library.missing()
    with pytest.raises(BackendUnavailableError, match=r"tensorrt is not.*; tensorrt_rtx is not"):
        _tensorrt_library.load()
    with pytest.raises(OptionError, match="'tensorflow' is unknown"):
        _tensorrt_library.load("tensorflow")


def test_broken_installations_say_why(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tensorrt", raising=False)
    monkeypatch.setattr(_tensorrt_library, "_loaded", {})
    monkeypatch.setattr(_tensorrt_library, "_failures", {})
    with pytest.raises(BackendUnavailableError, match=r"libnvinfer\.so\.10: no such file; its lib"):
        _tensorrt_library.load("tensorrt")


def test_cuda_runtime_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv(_cuda_runtime.ENVIRONMENT, str(tmp_path / "libcudart.so"))
    _cuda_runtime.runtime.cache_clear()
    with pytest.raises(BackendUnavailableError, match="can be loaded from ICMH_CUDART"):
        _cuda_runtime.runtime()


def test_cuda_errors_have_names(fake):
    cuda = _cuda_runtime.runtime()
    with pytest.raises(_cuda_runtime.CudaError, match=r"cudaFree: invalid argument \(CUDA error 1"):
        cuda.free(12345)
    with pytest.raises(_cuda_runtime.CudaError, match="cudaSetDevice"):
        cuda.set_device(7)
    assert cuda.driver_version().startswith("12.8")
    assert cuda.compute_capability(0) == (8, 6)
