"""Adapters in graphs: the Fourier transform by matrices, and the whole against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_cases import WIDTHS, cutting, default, noise, random_adapters, run, session

from icmh_rt import graphs
from icmh_rt.errors import BundleError, OptionError
from icmh_rt.export._references import TorchReference
from icmh_rt.graphs._builder import GraphBuilder
from icmh_rt.graphs._dft import Fourier
from icmh_rt.graphs.adapter_files import read_adapters
from icmh_rt.models.adapters import adapter_parameters, attach_adapters, save_adapters
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior, SlimmableHyperpriorConfig

TASK = "detection"


def fourier_graph(sides, forward):
    b = GraphBuilder()
    known = all(isinstance(side, int) for side in sides)
    shape = [1, 2, *(sides if known else ("H", "W"))]
    if forward:
        x = b.input("x", "float32", shape)
        places = sides if known else (b.side(x, 2), b.side(x, 3))
        real, imaginary = Fourier(b).forward(x, places)
        for value, name in ((real, "real"), (imaginary, "imaginary")):
            b.output(value, name, "float32", [1, 2, "h", "w"])
    else:
        parts = [b.input(name, "float32", [1, 2, "h", "w"]) for name in ("real", "imaginary")]
        places = sides
        if not known:
            like = b.input("like", "float32", [1, 2, "H", "W"])
            places = (b.side(like, 2), b.side(like, 3))
        b.output(Fourier(b).inverse(*parts, places), "x", "float32", shape)
    return b.model("fourier", "", {})


@pytest.mark.parametrize("known", [True, False])
def test_the_fourier_transform_is_numpys(known):
    random = np.random.default_rng(5)
    if not known:
        forward, inverse = (session(fourier_graph("HW", way)) for way in (True, False))
    for sides in ((1, 1), (1, 2), (2, 1), (3, 4), (8, 13), (64, 96), (135, 241)):
        x = random.normal(0, 1, (1, 2, *sides)).astype(np.float32)
        if known:
            forward, inverse = (session(fourier_graph(sides, way)) for way in (True, False))
        real, imaginary = run(forward, x=x)
        expected = np.fft.rfft2(x.astype(np.float64))
        error = np.abs(real + 1j * imaginary - expected).max()
        assert error < 3e-6 * np.abs(expected).max()
        # Parts that no real map has must be ignored as numpy ignores them.
        real, imaginary = random.normal(0, 1, (2, *expected.shape)).astype(np.float32)
        given = {"real": real, "imaginary": imaginary} | ({} if known else {"like": x})
        expected = np.fft.irfft2(real + 1j * imaginary, sides)
        assert np.abs(run(inverse, **given)[0] - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", [None, (83, 101)])
def test_adapted_transforms_are_those_of_torch(width, size):
    arrays = random_adapters()
    reference = TorchReference(default(), width, TASK, arrays)
    plain = TorchReference(default(), width, "human", None)
    models = [
        session(graphs.build(default(), role, width, TASK, adapters=arrays, size=size))
        for role in ("analysis", "synthesis")
    ]
    for height, columns in [(83, 101)] if size else [(83, 101), (1, 1), (48, 32), (17, 130)]:
        for image in (cutting(height, columns), noise(height, columns, 50)):
            y, z = (a[0] for a in run(models[0], image=image[None]))
            y_there, z_there = reference.latents(image)
            np.testing.assert_allclose(y, y_there, atol=4e-5 * max(1, np.abs(y_there).max()))
            np.testing.assert_allclose(z, z_there, atol=4e-5 * max(1, np.abs(z_there).max()))
            assert np.abs(y - plain.latents(image)[0]).max() > 0.1
            sides = {} if size else {"height": height, "width": columns}
            picture = run(models[1], y_hat=y_there[None], **sides)[0][0].astype(int)
            there = reference.picture(y_there, (height, columns))
            assert np.abs(picture - there).max() <= 1
            change = np.abs(picture - plain.picture(y_there, (height, columns))).max()
            assert change > 3 or image.size < 1000


def test_symbols_of_an_adapted_encoder_are_those_of_its_analysis():
    image = cutting(60, 90)
    arrays = {f"{TASK}.{k}": v for k, v in random_adapters(seed=2, factor=None).items()}
    y, z = run(graphs.build(default(), "analysis", 0.5, TASK, adapters=arrays), image=image[None])
    encoder = graphs.build(default(), "encoder", 0.5, TASK, adapters=arrays)
    symbols, indexes, symbols_z = run(encoder, image=image[None], quality=70)
    from icmh_rt.coding import coding_of

    coding = coding_of(default(), 0.5, 70)
    prediction = coding.predict(coding.quantize_hyper(z[0]), (60, 90))
    np.testing.assert_array_equal(symbols_z[0], coding.quantize_hyper(z[0]))
    np.testing.assert_array_equal(indexes[0], prediction.indexes)
    np.testing.assert_array_equal(symbols[0], coding.quantize(y[0], prediction))


def test_a_factor_of_zero_is_no_adapter():
    plain = graphs.build(default(), "analysis", 0.25)
    muted = graphs.build(default(), "analysis", 0.25, TASK, adapters=random_adapters(factor=0.0))
    assert muted.graph.SerializeToString() == plain.graph.SerializeToString()


def test_mistakes_are_told():
    def fails(message, task=TASK, **changed):
        arrays = random_adapters() | changed
        arrays = {k: v for k, v in arrays.items() if v is not None}
        with pytest.raises(OptionError, match=message):
            graphs.build(default(), "analysis", 0.25, task, adapters=arrays)

    name = "encoder_sfmas.1.f_dw.weight"
    fails(f"lack '{name}'", **{name: None})
    fails(r"have float32 \(3,\) for encoder_sfmas", **{name: np.zeros(3, np.float32)})
    fails("not finite", **{name: np.full((48, 1, 3, 3), np.nan, np.float32)})
    fails("have int64", **{name: np.zeros((48, 1, 3, 3), np.int64)})
    fails("unknown array 'encoder_sfmas.3.s_up.bias'", **{"encoder_sfmas.3.s_up.bias": np.zeros(3)})
    fails("factor is", factor=np.array(np.inf))
    fails("'human' cannot have adapters: use one of classification", task="human")
    fails("'dreaming' cannot have adapters", task="dreaming")


# -- files -----------------------------------------------------------------------------------------


def adapted_model(**options):
    model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(default().config))
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in default().transforms.items()}
    model.load_state_dict(state, strict=False)
    attach_adapters(model, [TASK, "segmentation"], middle=8, **options)
    with torch.no_grad():
        for i, parameter in enumerate(adapter_parameters(model).values()):
            parameter.fill_(0.001 * i)
    return model


def test_files_of_adapters_are_read_without_torch(tmp_path):
    model = adapted_model(factor=0.25)
    save_adapters(model, tmp_path / "both.safetensors")
    found = read_adapters(tmp_path / "both.safetensors", default())
    assert set(found) == {TASK, "segmentation"}
    for task, arrays in found.items():
        assert arrays.pop("factor") == 0.25
        expected = adapter_parameters(model, task)
        assert {f"{task}.{name}" for name in arrays} == set(expected)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[f"{task}.{name}"].detach().numpy())
        graphs.build(default(), "encoder", 0.25, task, adapters=arrays)


def test_files_that_do_not_fit_are_told(tmp_path):
    from dataclasses import replace

    path = tmp_path / "adapters.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="cannot be read"):
        read_adapters(path, default())
    save_adapters(adapted_model(places={"g_a": ["g_a.stem"]}), path)
    with pytest.raises(OptionError, match=r"adapts g_a\.stem in g_a for task 'detection'"):
        read_adapters(path, default())
    save_adapters(adapted_model(), path)
    other = default().transforms | {
        "g_a.stem.bias": default().transforms["g_a.stem.bias"] + np.float16(1)
    }
    with pytest.raises(BundleError, match="was trained for other weights"):
        read_adapters(path, replace(default(), transforms=other))
    import safetensors.numpy

    safetensors.numpy.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(BundleError, match="is not an adapter file"):
        read_adapters(path, default())
    safetensors.numpy.save_file({"a": np.zeros(1)}, path, {"icmh_adapters": '{"format": 1}'})
    with pytest.raises(BundleError, match="damaged metadata"):
        read_adapters(path, default())
