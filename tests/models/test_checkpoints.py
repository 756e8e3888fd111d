"""Checkpoints: every family in every wrapping comes back as it was, and nothing else comes in."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from codec_cases import below, load_golden, scramble  # noqa: E402

from icmh_rt.errors import BundleError, OptionError  # noqa: E402
from icmh_rt.models.checkpoints import describe, from_state_dict, load_checkpoint  # noqa: E402
from icmh_rt.models.compressai_families import (  # noqa: E402
    FactorizedPrior,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from icmh_rt.models.slimmable_published import SlimmableFactorized, SlimmableHyper  # noqa: E402
from icmh_rt.models.tic import TIC  # noqa: E402

BUILDERS = {
    "tic": lambda: TIC(16, 32),
    "tic-sfma": lambda: TIC(16, 32, adapters=8),
    "slimmable-factorized": lambda: SlimmableFactorized(10, (0.5, 1.0)),
    "slimmable-hyper": lambda: SlimmableHyper(10, (0.3, 0.5, 1.0)),
    "bmshj2018-factorized": lambda: FactorizedPrior(4, 6),
    "bmshj2018-hyperprior": lambda: ScaleHyperprior(4, 6),
    "mbt2018-mean": lambda: MeanScaleHyperprior(4, 6),
}
WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "loss": torch.tensor(0.5), "state_dict": state},
    "model": lambda state: {"model": dict(state), "args": {"lambda": 0.01}},
    "net": lambda state: {"net": state},
    "nested": lambda state: {"model": {"state_dict": state}, "step": 1},
    "module": lambda state: {f"module.{k}": v for k, v in state.items()},
    "both": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
}


def _old_names(state):
    """The entropy bottlenecks' names before CompressAI 1.2.7."""
    old = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    renamed = {}
    for key, value in state.items():
        if "entropy_bottleneck" in key:
            for new, name in old.items():
                key = key.replace(new, name)
        renamed[key] = value
    return renamed


@pytest.fixture(scope="module")
def models():
    return {
        name: scramble(build(), i).eval().requires_grad_(False)
        for i, (name, build) in enumerate(BUILDERS.items())
    }


def _assert_same(found, model):
    assert type(found) is type(model)
    assert not found.training
    expected = model.state_dict()
    state = found.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
        assert value.numel() == 0 or state[key].data_ptr() != value.data_ptr(), key


# -- what loads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", BUILDERS)
def test_round_trip_in_memory(models, name, wrapping):
    state = WRAPPINGS[wrapping](models[name].state_dict())
    keys = list(state)
    _assert_same(from_state_dict(state), models[name])
    assert list(state) == keys


@pytest.mark.parametrize("name", BUILDERS)
def test_round_trip_through_files(models, name, tmp_path):
    model = models[name]
    for i, wrapped in enumerate(wrap(model.state_dict()) for wrap in WRAPPINGS.values()):
        path = tmp_path / f"{i}.pth.tar"
        torch.save(wrapped, path, _use_new_zipfile_serialization=bool(i % 2))
        _assert_same(load_checkpoint(path if i % 3 else str(path)), model)
    for extension in ("safetensors", "pt"):  # known by its contents, not its name
        path = tmp_path / f"weights.{extension}"
        safetensors_torch.save_file(model.state_dict(), path)
        _assert_same(load_checkpoint(path), model)


@pytest.mark.parametrize("name", BUILDERS)
def test_older_names_and_half_precision(models, name):
    state = models[name].state_dict()
    old = _old_names(state)
    assert set(old) != set(state)
    _assert_same(from_state_dict(old), models[name])
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    found = from_state_dict(half).state_dict()
    assert all(found[k].dtype == state[k].dtype for k in state)


def test_what_a_trainer_keeps_beside_the_weights(models, tmp_path):
    """Optimizers, schedulers with counters, numpy's numbers."""
    model = ScaleHyperprior(4, 6)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 100], gamma=0.5)
    scheduler.milestones = collections.Counter([80, 100])
    path = tmp_path / "checkpoint.pth.tar"
    checkpoint = {
        "epoch": 7,
        "state_dict": model.state_dict(),
        "loss": np.float64(0.25),
        "best": np.float32(0.5),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
    }
    torch.save(checkpoint, path)
    _assert_same(load_checkpoint(path), model)


def test_attention_masks_of_tic_trainers_are_dropped(models):
    state = dict(models["tic"].state_dict())
    state["g_a1.residual_group.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
    _assert_same(from_state_dict(state), models["tic"])


@pytest.mark.parametrize("family", ["slimmable_factorized", "slimmable_hyper"])
def test_published_slimmables_load(family):
    golden = load_golden(family)
    model = from_state_dict(below(golden, "state."))
    assert model.widths.values == (0.67, 1.0)
    assert model.feature_widths == (0.67,)
    with torch.no_grad():
        out = model(golden["x"], width=0.67)
    assert out["fea"].shape == golden["w0.67.fea"].shape


@pytest.mark.parametrize("n", [7, 24, 100, 192, 320])
@pytest.mark.parametrize("width", [0.1, 1 / 3, 0.5, 0.67, 0.999])
def test_widths_are_found_from_channels(n, width):
    channels = int(n * width)
    if channels == 0:
        return
    from icmh_rt.models.checkpoints import _width_of

    found = _width_of(channels, n)
    assert int(n * found) == channels
    assert width not in (0.5, 0.67) or n == 7 or found == width


def test_slimmable_with_a_width_that_has_no_decoder():
    """As the published code would make it with three widths: two of them have bottlenecks."""
    model = scramble(SlimmableFactorized(12, (0.25, 0.5, 1.0), feature_widths=(0.25,)), 0)
    found = from_state_dict(model.state_dict())
    _assert_same(found, model)
    assert describe(found).outputs == ("feature", "none", "image")


@pytest.mark.parametrize("feature_widths", [(), (1.0,)])
def test_slimmable_of_one_width(feature_widths):
    model = scramble(SlimmableHyper(6, (1.0,), feature_widths), 0)
    _assert_same(from_state_dict(model.state_dict()), model)


def test_tables_come_along(models):
    state = models["mbt2018-mean"].state_dict()
    for part, rows in (("entropy_bottleneck", 4), ("gaussian_conditional", 2)):
        state[f"{part}._quantized_cdf"] = torch.tensor([[0, 40000, 65536]] * rows).int()
        state[f"{part}._cdf_length"] = torch.full((rows,), 3).int()
        state[f"{part}._offset"] = torch.zeros(rows).int()
    state["gaussian_conditional.scale_table"] = torch.tensor([0.5, 1.0])
    found = from_state_dict(state)
    assert found.gaussian_conditional.tables().num_tables == 2
    assert describe(found).stored_tables
    assert not describe(models["mbt2018-mean"]).stored_tables


@pytest.mark.parametrize("name", ["FactorizedPrior", "ScaleHyperprior", "MeanScaleHyperprior"])
def test_compressai_checkpoints(name, tmp_path):
    """What CompressAI's own classes save, tables included."""
    compressai_models = pytest.importorskip("compressai.models")
    published = scramble(getattr(compressai_models, name)(4, 6), 1).eval()
    published.update()
    path = tmp_path / "model.pth.tar"
    torch.save(published.state_dict(), path)
    found = load_checkpoint(path)
    assert describe(found).stored_tables
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(found(x)["x_hat"], published(x)["x_hat"], atol=1e-5)


# -- what does not ---------------------------------------------------------------------------------


def _refused(call, *needles, error=BundleError):
    """The message of the error, which is one short line that says ``needles``."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and message.isprintable()
    for needle in needles:
        assert needle in message, message
    assert caught.value.__cause__ is None and (
        caught.value.__suppress_context__ or caught.value.__context__ is None
    )
    return message


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_key_is_named(models, name):
    state = dict(models[name].state_dict())
    for key in list(state)[:: len(state) // 7]:
        short = {k: v for k, v in state.items() if k != key}
        _refused(lambda short=short: from_state_dict(short), name, "lacks", key)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_key_too_much_is_named(models, name):
    state = {**models[name].state_dict(), "teacher.weight": torch.zeros(3)}
    message = _refused(lambda: from_state_dict(state), name, "has no place for teacher.weight")
    assert "lacks" not in message


@pytest.mark.parametrize("name", BUILDERS)
def test_other_shapes_and_kinds_are_named(models, name):
    state = dict(models[name].state_dict())
    key = next(k for k in reversed(state) if k.startswith("g_s") and k.endswith("weight"))
    for tensor in (state[key][:-1], state[key].flatten(), torch.zeros_like(state[key]).int()):
        bad = {**state, key: tensor}
        _refused(lambda bad=bad: from_state_dict(bad), name, "has other tensors", key)


def test_mixed_families(models):
    state = {**models["bmshj2018-hyperprior"].state_dict(), **models["tic"].state_dict()}
    _refused(lambda: from_state_dict(state), "nearest, tic", "no place for", "more")
    state = {**models["tic"].state_dict()}
    sfma = below(models["tic-sfma"].state_dict(), "encoder_sfmas.0.")
    state |= {f"encoder_sfmas.0.{k}": v for k, v in sfma.items()}
    _refused(lambda: from_state_dict(state), "encoder_sfmas.0.")


def test_some_keys_with_prefix(models):
    state = models["bmshj2018-factorized"].state_dict()
    mixed = {k if i % 2 else f"module.{k}": v for i, (k, v) in enumerate(state.items())}
    _refused(lambda: from_state_dict(mixed), "bmshj2018-factorized", "lacks", "module.")


def test_old_and_new_names_together(models):
    state = models["bmshj2018-factorized"].state_dict()
    _refused(lambda: from_state_dict({**state, **_old_names(state)}), "old and new names")


def test_other_models():
    other = torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()
    _refused(lambda: from_state_dict(other), "0.weight", "mbt2018-mean", "tic-sfma")
    context = MeanScaleHyperprior(4, 6).state_dict()
    context["context_prediction.weight"] = torch.zeros(12, 6, 5, 5)
    _refused(lambda: from_state_dict(context), "mbt2018-mean", "context_prediction.weight")


@pytest.mark.parametrize(
    "state", [None, 3, "path.pth", [("g_a.0.weight", torch.zeros(1))], torch.zeros(3)]
)
def test_no_dictionary(state):
    _refused(lambda: from_state_dict(state), "dictionary", error=OptionError)


def test_dictionaries_without_tensors(models):
    _refused(lambda: from_state_dict({}), "empty")
    _refused(lambda: from_state_dict({"state_dict": {}}), "empty")
    _refused(lambda: from_state_dict({"epoch": 3}), "int", "'epoch'")
    _refused(lambda: from_state_dict({"weights": models["tic"].state_dict()}), "'weights'")
    _refused(lambda: from_state_dict({3: torch.zeros(1)}), "under 3")
    circle = {"epoch": 1}
    circle["model"] = circle
    _refused(lambda: from_state_dict(circle), "not a tensor")


def test_hostile_names_and_sizes_make_short_messages():
    ugly = {"line\nbreak\x1b[31m": torch.zeros(1), "x" * 10_000: torch.zeros(1)}
    _refused(lambda: from_state_dict(ugly))
    state = FactorizedPrior(4, 6).state_dict()
    state |= {f"extra{i}": torch.zeros(1) for i in range(1000)}
    _refused(lambda: from_state_dict(state), "more")
    # A first tensor that claims a size of which the others would take terabytes.
    state = {
        **FactorizedPrior(4, 6).state_dict(),
        "g_a.0.weight": torch.zeros(1).expand(10**6, 3, 5, 5),
    }
    _refused(lambda: from_state_dict(state), "other tensors")
    for weight in (torch.zeros(()), torch.zeros(0, 3, 5, 5), torch.zeros(7)):
        for name, key in (("tic", "g_a0.weight"), ("slimmable-hyper", "g_a.0.weight")):
            state = {**BUILDERS[name]().state_dict(), key: weight}
            _refused(lambda state=state: from_state_dict(state), name, "other tensors")
    state = dict(TIC(16, 32).state_dict())
    state["g_a0.weight"] = torch.zeros(17, 3, 5, 5)  # no multiple of the heads
    _refused(lambda: from_state_dict(state), "tic", "other tensors")
    state = dict(SlimmableFactorized(10, (0.5, 1.0)).state_dict())
    state["g_a.1.bn.0.beta"] = torch.zeros(12)  # more than the full width
    _refused(lambda: from_state_dict(state), "slimmable-factorized", "other tensors")


def test_tensors_that_cannot_be_copied():
    state = FactorizedPrior(4, 6).state_dict()
    for bad in (state["g_s.0.weight"].to_sparse(), state["g_s.0.weight"].to("meta")):
        broken = {**state, "g_s.0.weight": bad}
        _refused(lambda broken=broken: from_state_dict(broken), "g_s.0.weight")


# -- files -----------------------------------------------------------------------------------------


class _Command:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["pickle2", "pickle5", "zip", "legacy"])
def test_code_in_a_pickle_is_not_run(form, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "evil.pth.tar"
    evil = {"state_dict": FactorizedPrior(4, 6).state_dict(), "x": _Command(mark)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"x": _Command(mark)}, protocol=int(form[-1])))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "zip")
    _refused(lambda: load_checkpoint(path), "evil.pth.tar")
    assert not mark.exists()
    with open(path, "rb") as file:  # the mark is made by what is refused here
        assert b"touch" in file.read()


def test_other_objects_are_named(tmp_path):
    path = tmp_path / "args.pth"
    state = FactorizedPrior(4, 6).state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(n=1)}, path)
    _refused(lambda: load_checkpoint(path), "argparse.Namespace", "state_dict")
    torch.save(torch.nn.Linear(2, 2), path)
    _refused(lambda: load_checkpoint(path), "Linear", "state_dict")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_and_damaged_files(form, tmp_path):
    state = FactorizedPrior(2, 3).state_dict()
    if form == "safetensors":
        data = safetensors_torch.save(state)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=form == "zip")
        data = buffer.getvalue()
    path = tmp_path / "cut.pth"
    for size in [*range(40), *range(40, len(data), len(data) // 60), len(data) - 1]:
        path.write_bytes(data[:size])
        _refused(lambda: load_checkpoint(path), "cut.pth")
    rng = np.random.default_rng(0)
    for _ in range(60):  # never anything but an error of ours, or other numbers
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 4000), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except BundleError as error:
            assert "\n" not in str(error)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "file.pth"
    for contents in (b"", b"hello world, this is a text", b"\x89PNG\r\n\x1a\n" + bytes(64)):
        path.write_bytes(contents)
        _refused(lambda: load_checkpoint(path), "file.pth", "cannot be read")
    path.write_bytes(b"\xff" * 7 + b"\x7f{")  # a length that no file has
    _refused(lambda: load_checkpoint(path), "file.pth", "cannot be read")
    for value in ([1, 2], torch.zeros(3), "text"):
        torch.save(value, path)
        _refused(lambda: load_checkpoint(path), "file.pth", "not a dictionary")
    torch.save({}, path)
    _refused(lambda: load_checkpoint(path), "file.pth", "empty")
    _refused(lambda: load_checkpoint(tmp_path), "cannot be read")
    _refused(lambda: load_checkpoint(tmp_path / "none.pth"), "none.pth", "cannot be read")
    _refused(lambda: load_checkpoint("nul\0byte"), "cannot be read")
    torch.save({"0.weight": torch.zeros(2, 2)}, path)
    _refused(lambda: load_checkpoint(path), "file.pth", "0.weight")


# -- describing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "latent", "hyper", "widths", "outputs", "entropy_model", "stride"),
    [
        ("tic", (32,), (16,), (1.0,), ("image",), "mean_scale", 256),
        ("tic-sfma", (32,), (16,), (1.0,), ("image",), "mean_scale", 256),
        ("slimmable-factorized", (5, 10), (), (0.5, 1.0), ("feature", "image"), "factorized", 64),
        (
            "slimmable-hyper", (3, 5, 10), (3, 5, 10), (0.3, 0.5, 1.0),
            ("feature", "feature", "image"), "scale", 64,
        ),
        ("bmshj2018-factorized", (6,), (), (1.0,), ("image",), "factorized", 64),
        ("bmshj2018-hyperprior", (6,), (4,), (1.0,), ("image",), "scale", 64),
        ("mbt2018-mean", (6,), (4,), (1.0,), ("image",), "mean_scale", 64),
    ],
)  # fmt: skip
def test_descriptions(models, name, latent, hyper, widths, outputs, entropy_model, stride):
    found = describe(from_state_dict(models[name].state_dict()))
    assert found.family == name
    assert (found.latent_channels, found.hyper_channels) == (latent, hyper)
    assert (found.widths, found.outputs) == (widths, outputs)
    assert (found.entropy_model, found.stride) == (entropy_model, stride)
    assert found.latent_stride == 16


def test_only_these_models_are_described():
    with pytest.raises(OptionError, match="Linear"):
        describe(torch.nn.Linear(2, 2))
