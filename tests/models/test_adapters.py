"""Adapters on every architecture: places, an untouched base, learning, switching, files."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from adapters_codecs import CODECS, SMALL, Codec, all_outputs, outputs, same  # noqa: E402
from torch import nn  # noqa: E402

from icmh_rt.errors import BundleError, OptionError  # noqa: E402
from icmh_rt.models.adapters import (  # noqa: E402
    SlimmableSFMA,
    adapter_parameters,
    adapter_report,
    attach_adapters,
    attached_tasks,
    current_task,
    detach_adapters,
    load_adapters,
    save_adapters,
    use_task,
)
from icmh_rt.models.compressai_families import FactorizedPrior  # noqa: E402
from icmh_rt.models.sfma import SFMA  # noqa: E402
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior  # noqa: E402

MIDDLE = 6
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
# One of each kind of transform: a module of layers, methods over attributes, a slimmable.
some_codecs = pytest.mark.parametrize(
    "codec", [CODECS[name] for name in ("our-mean-scale", "tic", "default")]
)


def _randomise(model: nn.Module, task: str, seed: int = 0) -> None:
    """Gives the task's adapters something to do, as training would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model, task).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape))


def _adapted(codec: Codec, *tasks: str) -> nn.Module:
    model = codec()
    attach_adapters(model, tasks, middle=MIDDLE)
    for seed, task in enumerate(tasks):
        _randomise(model, task, seed)
    return model


def _outputs(codec: Codec, model: nn.Module, task: str | None) -> dict:
    with use_task(model, task):
        return outputs(codec, model)


def _copies(state: dict) -> dict:
    return {key: value.clone() for key, value in state.items()}


def _hooks(model: nn.Module) -> int:
    modules = list(model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


# -- where -----------------------------------------------------------------------------------------


@every_codec
def test_places(codec):
    report = attach_adapters(codec(), "detection", middle=MIDDLE)
    found = [(place.name, place.channels, place.stride) for place in report.places["detection"]]
    expected = [
        (name, channels, stride)
        for names in (codec.g_a, codec.g_s)
        for (name, channels), stride in zip(names, codec.strides, strict=True)
    ]
    assert found == expected


@every_codec
def test_every_adapter_is_where_it_says(codec):
    """Applied by hand between the layers, the adapters give what the hooks give."""
    model = _adapted(codec, "detection")
    with use_task(model, "detection"):
        hooked = outputs(codec, model)
    adapters = model.attached_adapters.detection
    twin = codec()
    for names, sfmas in ((codec.g_a, adapters.encoder_sfmas), (codec.g_s, adapters.decoder_sfmas)):
        for (name, _), sfma in zip(names, sfmas, strict=True):
            layer = twin.get_submodule(name.removesuffix(":input"))
            plain = layer.forward
            if name.endswith(":input"):
                layer.forward = lambda x, *a, f=plain, s=sfma: f(s(x), *a)
            else:
                layer.forward = lambda x, *a, f=plain, s=sfma: s(f(x, *a))
    by_hand = outputs(codec, twin)
    assert same(hooked, by_hand)
    assert not same(hooked, outputs(codec, codec()))


@every_codec
def test_every_adapter_acts(codec):
    """Each of the six alone, at every width, changes its transform's output and only that."""
    model = codec()
    attach_adapters(model, "detection", middle=MIDDLE)
    x = codec.image()
    adapters = model.attached_adapters.detection
    for width in codec.widths:
        with torch.no_grad():
            y = model.g_a(x, *width)
            x_hat = model.g_s(y, *width)
            for names, sfmas in (("a", adapters.encoder_sfmas), ("s", adapters.decoder_sfmas)):
                for sfma in sfmas:
                    nn.init.ones_(sfma.s_up.bias)
                    with use_task(model, "detection"):
                        assert torch.equal(model.g_a(x, *width), y) == (names == "s")
                        assert torch.equal(model.g_s(y, *width), x_hat) == (names == "a")
                    nn.init.zeros_(sfma.s_up.bias)


def test_published_size():
    report = attach_adapters(FactorizedPrior(128, 192), ["detection", "depth"])
    assert report.parameters == {"detection": 287_232, "depth": 287_232}
    assert report.base_parameters == 2_998_147
    assert report.percent("depth") == pytest.approx(9.58, abs=0.01)
    assert "287,232 parameters, 9.58 %, at g_a.1 (128 at 1/2)" in str(report)


def test_published_slimmable_at_its_narrow_width():
    codec = CODECS["slimmable-factorized"]
    model = codec()
    x = codec.image()
    with torch.no_grad():
        base = model.g_a(x, 0.67)
        assert base.shape[1] == 16
        attach_adapters(model, "detection", middle=MIDDLE)
        with use_task(model, "detection"):
            assert torch.equal(model.g_a(x, 0.67), base)
            _randomise(model, "detection")
            assert not torch.equal(model.g_a(x, 0.67), base)
        assert torch.equal(model.g_a(x, 0.67), base)


def test_places_by_name():
    codec = CODECS["our-factorized"]
    model = codec()
    names = {"g_a": ["g_a.0", "g_a.3"], "g_s": ["g_s.1:input"]}
    report = attach_adapters(model, "detection", middle=MIDDLE, places=names)
    assert [p.name for p in report.places["detection"]] == ["g_a.0", "g_a.3", "g_s.1:input"]
    assert [p.stride for p in report.places["detection"]] == [2, 4, 8]
    _randomise(model, "detection")
    assert not same(_outputs(codec, model, "detection"), outputs(codec, model))


def test_module_without_transforms_takes_places_by_name():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1))
    report = attach_adapters(model, "depth", middle=2, places={"g_a": ["1"]})
    assert [(p.name, p.channels, p.stride) for p in report.places["depth"]] == [("1", 5, 2)]


class _TwoStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
        self.g_s = nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2))


class _Broken(_TwoStages):
    def __init__(self) -> None:
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(1, 4, 3))


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.flat = nn.Conv2d(3, 3, 1), nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.flat(self.layer(self.layer(x)))


@pytest.mark.parametrize(
    ("model", "places", "message"),
    [
        (_TwoStages(), None, "looked in g_a for inner layers that give feature maps at 1/2, 1/4 "
         "and 1/8 of the image, found g_a.0 at 1/2, g_a.1 at 1/4; name modules"),
        (nn.Conv2d(3, 3, 1), None, "Conv2d with submodules .none.: looked for g_a and g_s"),
        (_Broken(), None, "cannot be probed .* 64x64 image it raises RuntimeError"),
        (nn.ReLU(), None, "ReLU with submodules .none. has no parameters"),
        (_Shared(), {"g_a": ["layer"]}, "'layer' .* it runs 2 times in g_a, not once"),
        (_Shared(), {"g_a": ["flat"]}, "'flat' .* it has no 4-D output"),
        (_Shared(), {"g_a": ["later"]}, "'later' does not fit _Shared .* it is no module"),
        (_Shared(), {"g_b": ["layer"]}, "places is .*g_b"),
        (_Shared(), {"g_a": "layer"}, "places is .*'layer'"),
        (_Shared(), {"g_a": []}, "places is "),
        (_Shared(), {"g_a": ["flat", "flat"]}, "of different modules"),
        (_Shared(), ["flat"], "places is "),
    ],
)  # fmt: skip
def test_models_without_places(model, places, message):
    before = [id(p) for p in model.parameters() if p.requires_grad]
    with pytest.raises(OptionError, match=message) as error:
        attach_adapters(model, "detection", places=places)
    assert "\n" not in str(error.value)
    assert [id(p) for p in model.parameters() if p.requires_grad] == before
    assert _hooks(model) == 0 and not attached_tasks(model)


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ("human", {}, "'human' is the base itself"),
        ("a.b", {}, "'a.b' cannot be a name"),
        ("children", {}, "'children' cannot be a name"),
        (["one", "one"], {}, "each once"),
        ([], {}, "at least one"),
        (7, {}, "tasks is 7"),
        ([7], {}, "task 7 cannot"),
        ("one", {"middle": 0}, "middle is 0"),
        ("one", {"middle": 2.0}, "middle is 2.0"),
        ("one", {"factor": float("nan")}, "factor is nan"),
    ],
)
def test_bad_arguments(tasks, options, message):
    with pytest.raises(OptionError, match=message):
        attach_adapters(CODECS["our-factorized"](), tasks, **options)


def test_bad_models():
    with pytest.raises(OptionError, match="model is a dict"):
        attach_adapters({}, "detection")
    with pytest.raises(OptionError, match="FactorizedPrior has no adapters"):
        use_task(FactorizedPrior(2, 2), "detection").__enter__()
    model = _adapted(CODECS["our-factorized"], "detection")
    with pytest.raises(OptionError, match="'detection' has adapters already"):
        attach_adapters(model, ["depth", "detection"])
    with pytest.raises(OptionError, match="'depth' has no adapters here: use one of detection"):
        adapter_parameters(model, "depth")
    model = FactorizedPrior(2, 2)
    model.g_a.append(SFMA(2, 2))
    with pytest.raises(OptionError, match=r"has adapters of its own \(g_a.7"):
        attach_adapters(model, "detection")


def test_widths_without_blocks_are_refused():
    config = SMALL.to_dict() | {"blocks_8": (0, 1, 1)}
    model = SlimmableHyperprior(type(SMALL).from_dict(config))
    with pytest.raises(OptionError, match=r"'g_s.blocks_8.0:input' .* runs 0 times in g_s"):
        attach_adapters(model, "detection")


# -- the base is untouched -------------------------------------------------------------------------


@every_codec
def test_base_is_bit_identical(codec):
    model = codec()

    def run(task: str | None) -> dict:
        with use_task(model, task):
            return all_outputs(codec, model)

    expected = all_outputs(codec, model)
    keys = list(model.state_dict())
    attach_adapters(model, ["detection", "depth"], middle=MIDDLE)
    assert same(expected, all_outputs(codec, model))
    for task in (None, "human", "detection", "depth"):  # new adapters are identities
        assert same(expected, run(task))
    _randomise(model, "detection")
    assert not same(expected, run("detection"))
    for task in (None, "human", "depth"):
        assert same(expected, run(task))
    assert list(model.state_dict()) == keys
    detach_adapters(model)
    assert same(expected, all_outputs(codec, model))
    assert list(model.state_dict()) == keys


@every_codec
def test_base_checkpoints_load_strictly(codec):
    base = codec()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter *= 1.01
    expected = outputs(codec, base)
    model = _adapted(codec, "detection")
    adapters = _copies(adapter_parameters(model))
    same_objects = [id(p) for p in adapter_parameters(model).values()]
    model.load_state_dict(base.state_dict(), strict=True)
    assert same(expected, outputs(codec, model))
    after = adapter_parameters(model)
    assert same(adapters, after)
    assert [id(p) for p in after.values()] == same_objects
    codec().load_state_dict(model.state_dict(), strict=True)  # and the other way round


def test_assigning_load_keeps_adapters():
    model = _adapted(CODECS["our-factorized"], "detection")
    objects = [id(p) for p in adapter_parameters(model).values()]
    other = CODECS["our-factorized"]()
    model.load_state_dict(other.state_dict(), assign=True)
    assert model.g_a[0].weight.data_ptr() == other.g_a[0].weight.data_ptr()
    assert [id(p) for p in adapter_parameters(model).values()] == objects
    assert all(p.requires_grad for p in adapter_parameters(model).values())


def test_missing_and_unknown_keys_are_still_noticed():
    model = _adapted(CODECS["our-factorized"], "detection")
    state = model.state_dict()
    del state["g_a.0.weight"]
    state["attached_adapters.detection.encoder_sfmas.0.s_up.bias"] = torch.zeros(12)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["g_a.0.weight"]
    assert unexpected == ["attached_adapters.detection.encoder_sfmas.0.s_up.bias"]


@every_codec
def test_detach_restores(codec):
    model = codec()
    next(model.parameters()).requires_grad_(False)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    modules = [name for name, _ in model.named_modules()]
    attach_adapters(model, ["detection", "depth"], middle=MIDDLE)
    attach_adapters(model, "segmentation", middle=2 * MIDDLE)
    assert attached_tasks(model) == ("detection", "depth", "segmentation")
    assert _hooks(model) == 18
    detach_adapters(model, "depth")
    assert attached_tasks(model) == ("detection", "segmentation")
    assert _hooks(model) == 12
    detach_adapters(model)
    assert _hooks(model) == 0 and attached_tasks(model) == ()
    assert [name for name, _ in model.named_modules()] == modules
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable
    with pytest.raises(OptionError, match="has no adapters"):
        detach_adapters(model)


# -- learning --------------------------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("training", [True, False])
def test_learning_moves_adapters_only(codec, training):
    model = codec().train(training)
    attach_adapters(model, ["detection", "depth"], middle=MIDDLE)
    assert all(m.training == training for m in model.modules())
    x = codec.image()
    with torch.no_grad():  # some layers mask their own weights in the first pass
        model(codec.whole_image(model)) if codec.widths == ((),) else None
    base = _copies(model.state_dict())
    start = _copies(adapter_parameters(model))
    parameters = adapter_parameters(model, "detection")
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    moved = []
    for _ in range(3):
        with use_task(model, "detection"):
            loss = sum(
                (model.g_s(model.g_a(x, *width), *width) - x).square().mean()
                for width in codec.widths
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved.append({n for n, p in parameters.items() if not torch.equal(p, start[n])})
    assert same(base, model.state_dict())
    assert all(p.grad is None for n, p in model.named_parameters() if "attached" not in n)
    after = adapter_parameters(model, "depth")
    assert same(after, {name: start[name] for name in after})
    # The first step reaches the zero projections alone, the next ones everything.
    assert moved[0] == {name for name in parameters if "_up." in name}
    assert moved[2] == set(parameters)


def test_loss_falls():
    codec = CODECS["our-mean-scale"]
    model = codec()
    attach_adapters(model, "detection", middle=MIDDLE)
    x = codec.image()
    optimizer = torch.optim.Adam(adapter_parameters(model, "detection").values(), lr=1e-2)
    losses = []
    for _ in range(20):
        with use_task(model, "detection"):
            loss = (model.g_s(model.g_a(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# -- switching -------------------------------------------------------------------------------------


def test_blocks_nest():
    model = _adapted(CODECS["our-factorized"], "detection", "depth")
    other = _adapted(CODECS["our-factorized"], "detection")
    assert current_task(model) is None
    with use_task(model, "detection"):
        assert (current_task(model), current_task(other)) == ("detection", None)
        with use_task(model, "human"):
            assert current_task(model) is None
            with use_task(other, "detection"), use_task(model, "depth"):
                assert (current_task(model), current_task(other)) == ("depth", "detection")
        with pytest.raises(ValueError), use_task(model, None):
            raise ValueError
        assert current_task(model) == "detection"
    assert current_task(model) is None


@some_codecs
def test_threads_do_not_see_each_other(codec):
    model = _adapted(codec, "detection", "depth")
    expected = {task: _outputs(codec, model, task) for task in ("human", "detection", "depth")}
    barrier = threading.Barrier(4)
    wrong = []

    def work(task: str | None) -> None:
        for _ in range(3):
            barrier.wait()
            if task is None:  # a thread that chose nothing
                found = outputs(codec, model)
            else:
                with use_task(model, task):
                    barrier.wait()
                    found = outputs(codec, model)
            if task is None:
                barrier.wait()
            if not same(found, expected[task or "human"]):
                wrong.append(task)

    tasks = ("human", "detection", "depth", None)
    threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
    with use_task(model, "detection"):  # which the new threads do not inherit
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@some_codecs
def test_wrappers_find_the_model_inside(codec):
    model = _adapted(codec, "detection")
    wrapper = nn.ModuleDict({"codec": model})
    with use_task(wrapper, "detection"):
        assert current_task(model) == "detection"
    assert list(adapter_parameters(wrapper)) == list(adapter_parameters(model))
    assert str(adapter_report(wrapper)) == str(adapter_report(model))
    both = nn.ModuleList([model, _adapted(codec, "detection")])
    with pytest.raises(OptionError, match="adapters in 2 places"):
        use_task(both, "detection").__enter__()


@pytest.mark.parametrize("name", ["our-mean-scale", "default"])
def test_compiled_model_switches(name):
    codec = CODECS[name]
    model = _adapted(codec, "detection", "depth")
    x, width = codec.image(), codec.widths[0]

    def code(x: torch.Tensor) -> torch.Tensor:
        return model.g_s(model.g_a(x, *width), *width)

    # The kernels that run where nothing is compiled add in other orders, some in two bfloat16.
    torch.compiler.reset()
    compiled = torch.compile(code, backend="eager")
    with torch.no_grad():
        for task in (None, "detection", "depth", None, "depth", "detection"):
            with use_task(model, task):
                assert torch.allclose(compiled(x), code(x), atol=1e-4)
    torch.compiler.reset()


def test_export_records_the_task():
    codec = CODECS["our-mean-scale"]
    model = _adapted(codec, "detection")
    x = codec.image()
    with use_task(model, "detection"):
        program = torch.export.export(model, (x,))
        expected = model(x)["x_hat"]
    assert torch.allclose(program.module()(x)["x_hat"], expected, atol=1e-5)


# -- going along -----------------------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("pickled", [False, True])
def test_copies_have_adapters_of_their_own(codec, pickled):
    model = _adapted(codec, "detection")
    if pickled and codec is CODECS["cheng2020-attn"]:
        with pytest.raises(AttributeError, match="ResidualUnit"):  # of CompressAI, without adapters
            pickle.dumps(codec())
        return
    expected = _outputs(codec, model, "detection")
    twin = pickle.loads(pickle.dumps(model)) if pickled else copy.deepcopy(model)
    assert same(expected, _outputs(codec, twin, "detection"))
    with use_task(model, "detection"):
        assert current_task(twin) is None
        assert not same(expected, outputs(codec, twin))
    for parameter in adapter_parameters(twin).values():
        nn.init.zeros_(parameter)
    assert same(expected, _outputs(codec, model, "detection"))
    detach_adapters(twin)
    assert _hooks(twin) == 0
    assert same(expected, _outputs(codec, model, "detection"))


@some_codecs
def test_moves_and_casts_take_adapters_along(codec):
    model = _adapted(codec, "detection")
    with use_task(model, "detection"):
        y = model.g_a(codec.image(), *codec.widths[-1])
        model.double()
        assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float64}
        precise = model.g_a(codec.image().double(), *codec.widths[-1])
    assert torch.allclose(precise.float(), y, atol=1e-3)
    model.half()
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float16}
    model.to("meta")
    assert {p.device.type for p in adapter_parameters(model).values()} == {"meta"}


@some_codecs
def test_adapters_come_in_the_dtype_of_the_model(codec):
    model = codec().double()
    attach_adapters(model, "detection", middle=MIDDLE)
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float64}
    with use_task(model, "detection"), torch.no_grad():
        model.g_a(codec.image().double(), *codec.widths[0])


# -- slimming --------------------------------------------------------------------------------------


def _prefix(sfma: SFMA, channels: int, middle: int) -> SFMA:
    """The obvious twin: a narrow SFMA with copies of the first rows and columns."""
    narrow = SFMA(channels, middle)
    with torch.no_grad():
        for name, parameter in narrow.named_parameters():
            wide = sfma.get_parameter(name)
            parameter.copy_(wide[tuple(slice(size) for size in parameter.shape)])
    return narrow


@pytest.mark.parametrize(("channels", "middle"), [(1, 1), (5, 3), (8, 4), (15, 8), (16, 8)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 2), (6, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_narrow_widths_use_prefixes(channels, middle, shape, memory_format):
    torch.manual_seed(0)
    wide = SlimmableSFMA(16, 8).double()
    x = torch.randn(2, 16, *shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    narrow = _prefix(wide, channels, middle).double()
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            kept = tuple(slice(size) for size in narrow.get_parameter(name).shape)
            rest = torch.ones_like(parameter, dtype=torch.bool)
            rest[kept] = False
            parameter[rest] = float("nan")  # must not be read
    assert torch.allclose(wide(x[:, :channels]), narrow(x[:, :channels]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [8, 16])
def test_half_precision(dtype, channels):
    torch.manual_seed(0)
    sfma = SlimmableSFMA(16, 8)
    x = torch.randn(1, channels, 6, 10)
    expected = sfma(x)
    with torch.autocast("cpu", dtype):
        for given in (x, x.to(dtype)):
            found = sfma(given)
            assert found.dtype == given.dtype
            assert torch.allclose(found.float(), expected, atol=0.05)
    found = sfma.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=0.05)


def test_half_precision_keeps_large_amplitudes():
    """A bright flat map has an amplitude far beyond float16 at frequency zero."""
    torch.manual_seed(0)
    sfma = SlimmableSFMA(8, 8)
    x = torch.full((1, 8, 64, 64), 30.0)
    found = sfma.half()(x.half())
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [False, True])
def test_layout_is_kept(channels, memory_format, grad):
    sfma = SlimmableSFMA(16, 8)
    x = torch.randn(2, channels, 6, 10).contiguous(memory_format=memory_format)
    with torch.set_grad_enabled(grad):
        assert sfma(x).stride() == x.stride()


# -- files -----------------------------------------------------------------------------------------


@every_codec
def test_saved_adapters_load_on_a_fresh_base(codec, tmp_path):
    model = _adapted(codec, "detection", "depth")
    path = tmp_path / "adapters.safetensors"
    save_adapters(model, path)
    fresh = codec()
    assert load_adapters(fresh, path) == ("detection", "depth")
    for task in (None, "detection", "depth"):
        assert same(_outputs(codec, model, task), _outputs(codec, fresh, task))
    again = tmp_path / "again.safetensors"
    save_adapters(fresh, again)
    assert again.read_bytes() == path.read_bytes()
    save_adapters(model, again, "depth")
    one = codec()
    assert load_adapters(one, again) == ("depth",)
    assert load_adapters(one, path, ["detection"]) == ("detection",)
    assert same(_outputs(codec, model, "detection"), _outputs(codec, one, "detection"))


def test_file_holds_the_adapters_alone(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    model = _adapted(CODECS["tic"], "detection")
    path = tmp_path / "adapters.safetensors"
    save_adapters(model, path)
    with safetensors.safe_open(str(path), framework="pt") as file:
        keys = set(file.keys())
        described = json.loads(file.metadata()["icmh_adapters"])
    lists = ("encoder_sfmas", "decoder_sfmas")
    names = [name for name, _ in SFMA(2, 2).named_parameters()]
    assert keys == {
        f"detection.{which}.{i}.{n}" for which in lists for i in range(3) for n in names
    }
    assert described["base"]["architecture"] == "TIC"
    assert described["tasks"]["detection"] == {
        "factor": 1.0,
        "middle": MIDDLE,
        "places": {
            "g_a": [["g_a1", 16], ["g_a3", 16], ["g_a5", 16]],
            "g_s": [["g_s5", 16], ["g_s3", 16], ["g_s1", 16]],
        },
    }


def test_places_and_sizes_come_from_the_file(tmp_path):
    codec = CODECS["our-factorized"]
    model = codec()
    places = {"g_a": ["g_a.2:input"], "g_s": ["g_s.3"]}
    attach_adapters(model, "depth", middle=3, factor=0.5, places=places)
    _randomise(model, "depth")
    save_adapters(model, tmp_path / "a.safetensors")
    fresh = codec()
    load_adapters(fresh, tmp_path / "a.safetensors")
    assert same(_outputs(codec, model, "depth"), _outputs(codec, fresh, "depth"))
    assert adapter_report(fresh) == adapter_report(model)


def test_loading_replaces_values_in_place(tmp_path):
    codec = CODECS["our-factorized"]
    path = tmp_path / "a.safetensors"
    save_adapters(_adapted(codec, "detection"), path)
    model = codec()
    attach_adapters(model, "detection", middle=MIDDLE)
    objects = [id(p) for p in adapter_parameters(model).values()]
    load_adapters(model, path)
    assert [id(p) for p in adapter_parameters(model).values()] == objects
    expected = _outputs(codec, _adapted(codec, "detection"), "detection")
    assert same(expected, _outputs(codec, model, "detection"))


def test_half_precision_base_is_the_same_base(tmp_path):
    model = _adapted(CODECS["our-factorized"], "detection")
    save_adapters(model, tmp_path / "a.safetensors")
    half = CODECS["our-factorized"]().half()
    assert load_adapters(half, tmp_path / "a.safetensors") == ("detection",)
    assert {p.dtype for p in adapter_parameters(half).values()} == {torch.float16}


def test_twins_share_adapters(tmp_path):
    """What was trained on CompressAI's class serves ours with the same checkpoint."""
    theirs_codec, ours_codec = CODECS["mbt2018-mean"], CODECS["our-mean-scale"]
    theirs = _adapted(theirs_codec, "detection")
    save_adapters(theirs, tmp_path / "a.safetensors")
    ours = ours_codec()
    transforms = {k: v for k, v in theirs.state_dict().items() if k.startswith(("g_a.", "g_s."))}
    assert not ours.load_state_dict(transforms, strict=False).unexpected_keys
    load_adapters(ours, tmp_path / "a.safetensors")
    x = theirs_codec.image()
    with torch.no_grad(), use_task(theirs, "detection"), use_task(ours, "detection"):
        y = theirs.g_a(x)
        assert torch.allclose(ours.g_a(x), y, atol=1e-4)
        assert torch.allclose(ours.g_s(y), theirs.g_s(y), atol=1e-4)


def _rewrite(path: Path, change) -> None:
    """Applies ``change(tensors, metadata)`` to an adapter file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = json.loads(file.metadata()["icmh_adapters"])
    change(tensors, metadata)
    save_file(tensors, str(path), {"icmh_adapters": json.dumps(metadata)})


KEY = "detection.decoder_sfmas.2.f_dw.weight"
DAMAGES = {
    "format": (lambda t, m: m.update(format=2), "is of format 2; this icmh_rt reads 1"),
    "no-format": (lambda t, m: m.clear(), "damaged metadata"),
    "no-base": (lambda t, m: m.pop("base"), "damaged metadata"),
    "no-middle": (lambda t, m: m["tasks"]["detection"].pop("middle"), "damaged metadata"),
    "bad-task": (lambda t, m: m.update(tasks=["detection"]), "damaged metadata"),
    "bad-places": (
        lambda t, m: m["tasks"]["detection"].update(places={"g_a": [1], "g_s": []}),
        "damaged metadata",
    ),
    "no-place": (
        lambda t, m: m["tasks"]["detection"]["places"].update(g_a=[["g_a.9", 12]]),
        "does not fit: place 'g_a.9'",
    ),
    "channels": (
        lambda t, m: m["tasks"]["detection"]["places"].update(g_a=[["g_a.1", 13]]),
        "other sizes or places for task 'detection'",
    ),
    "huge": (
        lambda t, m: m["tasks"]["detection"].update(middle=10**12),
        r"says 1000000000000 middle channels for task 'detection', its tensors have \[6\]",
    ),
    "missing": (lambda t, m: t.pop(KEY), f"lacks '{KEY}'"),
    "shape": (lambda t, m: t.update({KEY: t[KEY][:2].clone()}), r"\(2, 1, 3, 3\) for .*, not"),
    "dtype": (lambda t, m: t.update({KEY: t[KEY].long()}), "torch.int64"),
    "nan": (lambda t, m: t[KEY].fill_(float("nan")), "not finite"),
    "stray": (lambda t, m: t.update(other=t[KEY].clone()), "unknown tensor 'other'"),
    "stray-in-task": (
        lambda t, m: t.update({"detection.x": t[KEY].clone()}),
        "unknown tensor 'detection.x'",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_files(change, message, tmp_path):
    path = tmp_path / "a.safetensors"
    save_adapters(_adapted(CODECS["our-factorized"], "detection"), path)
    _rewrite(path, change)
    _assert_refused(CODECS["our-factorized"](), path, message)


def _assert_refused(model: nn.Module, path: Path, message: str, **options) -> None:
    with pytest.raises(BundleError, match=message) as error:
        load_adapters(model, path, **options)
    assert "\n" not in str(error.value)
    assert not attached_tasks(model) and _hooks(model) == 0
    assert all(p.requires_grad for p in model.parameters())


def test_files_of_something_else(tmp_path):
    from safetensors.torch import save_file

    codec = CODECS["our-factorized"]
    path = tmp_path / "a.safetensors"
    _assert_refused(codec(), path, "cannot be read")
    path.write_bytes(b"")
    _assert_refused(codec(), path, "cannot be read")
    save_adapters(_adapted(codec, "detection"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    _assert_refused(codec(), path, "cannot be read")
    save_file({"weight": torch.zeros(3)}, str(path))
    _assert_refused(codec(), path, "is not an adapter file")


def test_other_bases_are_refused(tmp_path):
    codec = CODECS["our-factorized"]
    path = tmp_path / "a.safetensors"
    save_adapters(_adapted(codec, "detection"), path)
    message = "is for a FactorizedPrior with .* not for this FactorizedPrior with"
    _assert_refused(FactorizedPrior(8, 16), path, message)
    _assert_refused(CODECS["tic"](), path, "is for a FactorizedPrior .* not for this TIC")
    with torch.no_grad():
        other = codec()
        other.g_s[0].weight[0, 0] += 0.1
    _assert_refused(other, path, "trained for a FactorizedPrior with other weights")
    assert load_adapters(other, path, check_weights=False) == ("detection",)
    _assert_refused(codec(), path, "has no task 'depth': it has detection", tasks="depth")


def test_attached_adapters_of_other_sizes_are_refused(tmp_path):
    codec = CODECS["our-factorized"]
    path = tmp_path / "a.safetensors"
    save_adapters(_adapted(codec, "detection"), path)
    with pytest.raises(OptionError, match="tasks is 3"):
        load_adapters(codec(), path, 3)
    model = codec()
    attach_adapters(model, "detection", middle=MIDDLE + 1)
    values = _copies(adapter_parameters(model))
    with pytest.raises(BundleError, match=r"other sizes or places .* detach_adapters first"):
        load_adapters(model, path)
    assert same(values, adapter_parameters(model))


def test_hyperprior_is_no_part_of_the_base_identity(tmp_path):
    """Backends run models without h_s; their adapters are those of the whole model."""
    codec = CODECS["default"]
    save_adapters(_adapted(codec, "detection"), tmp_path / "a.safetensors")
    model = codec()
    del model.h_s, model.quality_tables
    assert load_adapters(model, tmp_path / "a.safetensors") == ("detection",)


def test_needs_no_compressai():
    script = (
        "import sys\n"
        "sys.modules['compressai'] = None\n"
        "from icmh_rt.models.adapters import attach_adapters\n"
        "from icmh_rt.models.compressai_families import MeanScaleHyperprior\n"
        "print(attach_adapters(MeanScaleHyperprior(8, 8), 'detection', middle=4))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "MeanScaleHyperprior" in result.stdout
