"""`icmh export onnx`: what it writes, that it proves it, and that it withholds what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bare_bundle import bare_copy
from feature_heads import random_head

import icmh_rt
from icmh_rt import bundle, cli, graphs
from icmh_rt.errors import OptionError
from icmh_rt.export import _references, _verify
from icmh_rt.export import onnx as export_onnx
from icmh_rt.export._cli import USAGE
from icmh_rt.feature_files import save_feature_head
from icmh_rt.images import load_image
from icmh_rt.models.adapters import (
    adapter_parameters,
    attach_adapters,
    load_adapters,
    save_adapters,
)
from icmh_rt.models.slimmable_hyperprior import SlimmableHyperprior, SlimmableHyperpriorConfig

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = ROOT / "examples" / "kodim23.png"


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# -- what is written -------------------------------------------------------------------------------


def test_all_roles_of_all_widths_are_written_and_proven(tmp_path, capsys):
    assert cli.main(["export", "onnx", "-o", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    manifest = manifest_of(tmp_path)
    default = bundle.load()
    assert manifest["bundle"] == "default" and manifest["fingerprint"] == default.fingerprint
    assert manifest["icmh_rt"] == icmh_rt.__version__ and manifest["onnx"] == onnx.__version__
    assert manifest["manifest_format"] == 1
    entries = manifest["graphs"]
    assert {(g["role"], g["width"]) for g in entries} == {
        (role, width) for role in export_onnx.ROLES for width in default.widths
    }
    assert files_of(tmp_path) == {g["file"] for g in entries} | {"manifest.json"}
    for graph in entries:
        data = (tmp_path / graph["file"]).read_bytes()
        assert graph["sha256"] == hashlib.sha256(data).hexdigest()
        assert graph["bytes"] == len(data)
        model = onnx.load_from_string(data)
        assert graph["opset"] == model.opset_import[0].version
        assert graph["task"] == "human" and graph["precision"] == "fp32"
        assert graph["adapters"] is graph["size"] is graph["batch"] is graph["eight_bits"] is None
        proof = graph["proof"]
        assert proof["against"] == f"torch {torch.__version__}"
        assert proof["runtime"] == f"onnxruntime {onnxruntime.__version__}"
        assert proof["pictures"] >= 3
        assert f"{graph['file']}: proven in " in captured.err
        assert f"| {graph['file']} | " in captured.out
    by_role = {g["role"]: g["proof"] for g in entries}
    assert by_role["analysis"]["largest_tensor_difference"] < 1e-4
    assert by_role["encoder"]["symbols"] > 10_000 and by_role["encoder"]["indexes"] > 10_000
    assert by_role["hyper_synthesis"]["indexes_that_differ"] == 0
    assert by_role["synthesis"]["psnr_db"] > 25


def test_the_manifest_tells_inputs_and_outputs(tmp_path, capsys):
    arguments = ["export", "onnx", "-o", str(tmp_path), "--width", "0.5", "--unproven", "--json"]
    assert cli.main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    entries = {g["role"]: g for g in manifest_of(tmp_path)["graphs"]}
    assert {g["role"]: g for g in printed} == entries
    assert all(g["proof"] is None for g in entries.values())
    image = {"name": "image", "dtype": "uint8", "shape": ["N", "H", "W", 3]}
    quality = {"name": "quality", "dtype": "int64", "shape": []}
    assert entries["encoder"]["inputs"] == [image, quality]
    assert entries["encoder"]["outputs"] == [
        {"name": "symbols_y", "dtype": "int32", "shape": ["N", "h", "w", 224]},
        {"name": "indexes_y", "dtype": "uint8", "shape": ["N", "h", "w", 224]},
        {"name": "symbols_z", "dtype": "int32", "shape": ["N", "hz", "wz", 48]},
    ]
    assert entries["analysis"]["inputs"] == [image]
    assert [v["name"] for v in entries["analysis"]["outputs"]] == ["y", "z"]
    assert entries["hyper_synthesis"]["inputs"] == [
        {"name": "symbols_z", "dtype": "int32", "shape": ["N", "hz", "wz", 48]},
        quality,
    ]
    assert entries["hyper_synthesis"]["outputs"] == [
        {"name": "mean_y", "dtype": "float32", "shape": ["N", "4*hz", "4*wz", 224]},
        {"name": "indexes_y", "dtype": "uint8", "shape": ["N", "4*hz", "4*wz", 224]},
    ]
    assert entries["synthesis"]["inputs"] == [
        {"name": "y_hat", "dtype": "float32", "shape": ["N", "h", "w", 224]},
        {"name": "height", "dtype": "int64", "shape": []},
        {"name": "width", "dtype": "int64", "shape": []},
    ]
    assert entries["synthesis"]["outputs"] == [
        {"name": "image", "dtype": "uint8", "shape": ["N", "height", "width", 3]}
    ]


def test_a_size_and_a_batch_are_fixed(tmp_path):
    arguments = ["--width", "0.25", "--size", "100x60", "--batch", "3", "--precision", "fp16"]
    assert export_onnx.main(["-o", str(tmp_path), *arguments]) == 0
    entries = manifest_of(tmp_path)["graphs"]
    assert {g["file"] for g in entries} == {
        f"{role}-w0.25-human-fp16-100x60-b3.onnx" for role in export_onnx.ROLES
    }
    for graph in entries:
        assert graph["size"] == [100, 60] and graph["batch"] == 3
        sides = [side for v in (*graph["inputs"], *graph["outputs"]) for side in v["shape"]]
        assert all(isinstance(side, int) for side in sides)
        assert {v["name"] for v in graph["inputs"]} <= {"image", "quality", "symbols_z", "y_hat"}
        assert graph["proof"]["pictures"] == 3


def test_eight_bits(tmp_path, capsys):
    arguments = ["-o", str(tmp_path), "--width", "0.25", "--precision", "fp16"]
    arguments += ["--role", "encoder,synthesis", "--eight-bits", "int8"]
    assert export_onnx.main([*arguments, "--calibration", str(PHOTOGRAPH)]) == 0
    entries = manifest_of(tmp_path)["graphs"]
    assert [g["file"] for g in entries] == [
        "encoder-w0.25-human-fp16-int8.onnx",
        "synthesis-w0.25-human-fp16-int8.onnx",
    ]
    assert all(g["eight_bits"] == "int8" and g["opset"] == 19 for g in entries)
    encoder, synthesis = (g["proof"] for g in entries)
    assert 0 < encoder["symbols_that_differ"] < 0.05 * encoder["symbols"]
    assert encoder["indexes_that_differ"] == 0 and synthesis["psnr_db"] > 25


def test_later_exports_join_the_manifest(tmp_path):
    for arguments in (["--role", "synthesis"], ["--role", "analysis,synthesis"]):
        shared = ["-o", str(tmp_path), "--width", "0.25", "--unproven"]
        assert export_onnx.main([*shared, *arguments]) == 0
    names = [g["file"] for g in manifest_of(tmp_path)["graphs"]]
    assert names == ["analysis-w0.25-human-fp32.onnx", "synthesis-w0.25-human-fp32.onnx"]
    # What is gone, and what is of another bundle, is not listed any more.
    (tmp_path / names[0]).unlink()
    assert export_onnx.main([*shared, "--role", "synthesis"]) == 0
    assert [g["file"] for g in manifest_of(tmp_path)["graphs"]] == names[1:]
    manifest = manifest_of(tmp_path) | {"fingerprint": "00000000"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert export_onnx.main([*shared, "--role", "analysis"]) == 0
    assert [g["file"] for g in manifest_of(tmp_path)["graphs"]] == names[:1]
    (tmp_path / "manifest.json").write_text("no JSON")
    assert export_onnx.main([*shared, "--role", "synthesis"]) == 0
    assert [g["file"] for g in manifest_of(tmp_path)["graphs"]] == names[1:]


def test_equal_exports_give_equal_files(tmp_path):
    for name in ("one", "two"):
        arguments = ["-o", str(tmp_path / name), "--width", "0.25", "--unproven"]
        assert export_onnx.main(arguments) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_it_is_a_script_too(tmp_path):
    """Where its own folder comes first, which has files called as packages are."""
    arguments = ["-o", str(tmp_path), "--width", "0.25", "--role", "synthesis"]
    script = ROOT / "export" / "onnx.py"
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "synthesis-w0.25-human-fp32.onnx: proven" in done.stderr
    assert files_of(tmp_path) == {"synthesis-w0.25-human-fp32.onnx", "manifest.json"}


def test_the_document_runs():
    script = ROOT / "tests" / "run_readme_blocks.py"
    code = (
        f"import sys; sys.argv[1:] = [{str(ROOT / 'docs' / 'onnx.md')!r}]\n"
        f"sys.path.insert(0, {str(script.parent)!r})\n"
        "import run_readme_blocks\n"
        "kept = {}\n"
        "run = run_readme_blocks.run\n"
        "run_readme_blocks.run = lambda *a: (kept.update(names=a[-1]), run(*a))[1]\n"
        "assert run_readme_blocks.main() == 0\n"
        "import numpy as np, icmh_rt\n"
        "names = kept['names']\n"
        "error = np.mean((names['decoded'].astype(float) - names['image']) ** 2)\n"
        "assert 10 * np.log10(255 ** 2 / error) > 28\n"
        "coded = icmh_rt.Encoder(width=0.5, quality=50, backend='onnxruntime')\n"
        "report = coded.encode_detailed(names['image'])\n"
        "assert np.array_equal(names['symbols_z'], report.latents.symbols_z)\n"
        "assert np.mean(names['symbols_y'] != report.latents.symbols_y) < 1e-4\n"
        "assert abs(len(names['y']) + len(names['z']) - len(report.data)) < 64\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_onnx_one_line_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from icmh_rt.cli import main\n"
        f"sys.exit(main(['export', 'onnx', '-o', {str(tmp_path / 'out')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr.startswith("icmh: error: building graphs needs the package onnx")
    assert done.stderr.count("\n") == 1 and "pip install 'icmh-rt[onnx]'" in done.stderr


# -- adapters --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory):
    default = bundle.load()
    model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(default.config))
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in default.transforms.items()}
    model.load_state_dict(state, strict=False)
    attach_adapters(model, ["classification", "segmentation"], middle=16, factor=0.5)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if name.split(".")[-2] in ("s_up", "f_up"):
                parameter.normal_(0.0, 0.1, generator=random)
    path = tmp_path_factory.mktemp("adapters") / "adapters.safetensors"
    save_adapters(model, path)
    return path


def test_adapters_are_exported_and_proven(tmp_path, adapter_file):
    shared = ["-o", str(tmp_path), "--adapters", str(adapter_file), "--width", "0.25"]
    assert export_onnx.main(shared) == 0
    entries = manifest_of(tmp_path)["graphs"]
    assert {(g["task"], g["role"]) for g in entries} == {
        (task, role) for task in ("classification", "segmentation") for role in export_onnx.ROLES
    }
    assert len({(g["task"], g["adapters"]) for g in entries}) == 2
    assert all(len(g["adapters"]) == 16 and g["proof"] for g in entries)
    assert export_onnx.main([*shared, "--task", "human"]) == USAGE
    one = tmp_path / "one"
    arguments = ["-o", str(one), "--task", "segmentation", "--role", "analysis", *shared[2:]]
    assert export_onnx.main(arguments) == 0
    assert [g["task"] for g in manifest_of(one)["graphs"]] == ["segmentation"]


@pytest.fixture(scope="module")
def folder_with_tasks(adapter_file, tmp_path_factory):
    """The default bundle with one task's adapters and a feature head for it."""
    place = tmp_path_factory.mktemp("bundles")
    folder = bare_copy(place / "tasks")
    default = bundle.load(folder)
    model = SlimmableHyperprior(SlimmableHyperpriorConfig.from_dict(default.config))
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in default.transforms.items()}
    model.load_state_dict(state, strict=False)
    load_adapters(model, adapter_file)
    save_adapters(model.half(), place / "one.safetensors", "segmentation")
    bundle.add_adapters(folder, place / "one.safetensors")
    latents = bundle.load(folder).fingerprint_of("segmentation")
    save_feature_head(place / "head.safetensors", "segmentation", random_head(latents=latents))
    bundle.add_feature_head(folder, place / "head.safetensors")
    return folder


@pytest.mark.parametrize("reference", ["torch", "onnxruntime"])
def test_a_bundles_own_tasks_are_exported_and_proven(
    tmp_path, folder_with_tasks, reference, monkeypatch
):
    if reference == "onnxruntime":
        monkeypatch.setattr(_references, "find_spec", lambda name: None)
    arguments = ["-o", str(tmp_path), "--model", str(folder_with_tasks), "--width", "0.25"]
    arguments += ["--task", "segmentation", "--role", "analysis,synthesis,features"]
    assert export_onnx.main(arguments) == 0
    entries = manifest_of(tmp_path)["graphs"]
    proofs = {g["role"]: g["proof"] for g in entries}
    assert set(proofs) == {"analysis", "synthesis", "features"}
    assert all(reference in proof["against"] for proof in proofs.values())
    # PyTorch multiplies sums of two bfloat16 where there are AMX tiles.
    assert 0 <= proofs["features"].get("largest_tensor_difference", 0) < 1e-4
    wide = [*arguments[:-2], "--role", "features", "--width", "0.5"]
    assert export_onnx.main(wide) == USAGE


def test_another_head_does_not_pass_for_it(folder_with_tasks):
    own = bundle.load(folder_with_tasks)
    head = own.feature_heads["segmentation"]
    name = "blocks.1.mix_out.weight"
    arrays = {**head.arrays, name: head.arrays[name] * np.float16(1.1)}
    other = replace(own, feature_heads={"segmentation": replace(head, arrays=arrays)})
    session = _references.session_of(graphs.build(other, "features", 0.25, "segmentation"))
    reference = _references.reference_of(own, 0.25, "segmentation", None)
    proof = _verify.Proof(session, "g", "features", "fp32", own, 0.25, reference)
    image = load_image(export_onnx.PHOTOGRAPH)[:64, :64]
    with pytest.raises(_verify.VerificationError, match=r"g is wrong: neck.1 differs"):
        proof.check([image], [reference.latents(image)])


def test_other_adapters_do_not_pass_for_them(adapter_file):
    """The proof looks at the adapters, not only at the base."""
    from icmh_rt.graphs.adapter_files import read_adapters

    default = bundle.load()
    tasks = read_adapters(adapter_file, default)
    other = dict(tasks["segmentation"])
    name = "encoder_sfmas.2.f_inter.bias"
    other[name] = other[name] + np.float32(0.3)
    with pytest.raises(_verify.VerificationError, match=r"analysis is wrong: y differs from torch"):
        prove("analysis", adapters=tasks["segmentation"], adapters_there=other)


# -- the proof -------------------------------------------------------------------------------------


def prove(role, model=None, adapters=None, adapters_there=None, precision="fp32", without=None):
    """Build (or take) a graph at width 0.25 and check it against the reference."""
    default, task = bundle.load(), "segmentation" if adapters else "human"
    if model is None:
        model = graphs.build(default, role, 0.25, task, adapters=adapters, precision=precision)
    make = without or _references.TorchReference
    reference = make(default, 0.25, task, adapters_there)
    session = _references.session_of(model)
    proof = _verify.Proof(session, role, role, precision, default, 0.25, reference)
    image = load_image(export_onnx.PHOTOGRAPH)[:90, :100]
    proof.check([image], [reference.latents(image)])
    return proof.finish()


def altered(role, name, change, precision="fp32"):
    """The graph of ``role`` with one constant changed."""
    model = graphs.build(bundle.load(), role, 0.25, precision=precision)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return model


def add(amount, where):
    def change(array):
        array[where] += amount
        return array

    return change


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("role", "name", "change", "message"),
    [
        ("analysis", "g_a.stem.bias", add(0.5, 3), "y differs from torch"),
        ("analysis", "h_a.down_2.bias", add(0.5, 3), "z differs from torch"),
        ("encoder", "gain", lambda a: a * np.float32(1.3), "a symbol of y is "),
        ("encoder", "hyper_gain", lambda a: a * np.float32(1.3), "a symbol of z is "),
        ("encoder", "index_offset", add(64, (49, 7)), "scale indexes are not those"),
        ("hyper_synthesis", "h_s.mean.bias", add(4096, 5), "means are not those"),
        ("hyper_synthesis", "h_s.context_32.weight", add(9, (5, 5)), "are not those"),
        ("synthesis", "g_s.head.bias", add(9.0, 5), "a picture is "),
    ],
)
def test_a_wrong_graph_is_found(precision, role, name, change, message):
    with pytest.raises(_verify.VerificationError, match=message):
        prove(role, altered(role, name, change, precision), precision=precision)


def test_many_small_differences_are_found():
    """Each is one on the border between two symbols, but there are too many."""
    reference = _references.TorchReference(bundle.load(), 0.25, "human", None)
    proof = _verify.Proof(None, "graph", "analysis", "fp32", bundle.load(), 0.25, reference)
    values = np.full((40, 40), 0.5001, np.float32)
    for _ in range(2):
        proof._compare_rounded("y", np.zeros((40, 40), int), values, np.ones((40, 40), int))
    with pytest.raises(_verify.VerificationError, match="3200 of 3200 symbols differ from torch"):
        proof.finish()
    with pytest.raises(_verify.VerificationError, match=r"value lies 0\.1 from the border"):
        proof._compare_rounded("y", np.zeros(1, int), np.full(1, 0.6), np.ones(1, int))


def test_values_that_are_no_numbers_are_found():
    with pytest.raises(_verify.VerificationError, match=r"y differs from torch .* by nan"):
        prove("analysis", altered("analysis", "g_a.stem.bias", add(np.nan, 3)))


@pytest.mark.parametrize("role", export_onnx.ROLES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_without_torch_graphs_are_compared_with_graphs(role, precision):
    found = prove(role, precision=precision, without=_references.GraphReference)
    if precision == "fp16" and role == "analysis":
        assert 0 < found["largest_tensor_difference"] < 0.01


def test_without_torch_the_manifest_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(_references, "find_spec", lambda name: None)
    arguments = ["-o", str(tmp_path), "--width", "0.25", "--role", "analysis,synthesis"]
    assert export_onnx.main(arguments) == 0
    for graph in manifest_of(tmp_path)["graphs"]:
        assert graph["proof"]["against"] == (
            f"onnxruntime {onnxruntime.__version__} alone, without torch"
        )


def test_what_is_wrong_is_withheld_and_what_was_there_stays(tmp_path, monkeypatch, capsys):
    arguments = ["export", "onnx", "-o", str(tmp_path), "--width", "0.25"]
    assert cli.main([*arguments, "--role", "analysis"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    build, wrong = graphs.build, altered("synthesis", "g_s.head.bias", add(9.0, 5))

    def build_wrongly(bundle, role, *rest, **options):
        return wrong if role == "synthesis" else build(bundle, role, *rest, **options)

    monkeypatch.setattr(graphs, "build", build_wrongly)
    capsys.readouterr()
    assert cli.main([*arguments, "--role", "encoder,synthesis"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(
        "icmh: error: synthesis-w0.25-human-fp32.onnx is wrong: a picture is "
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_graph_of_another_shape_is_found():
    default = bundle.load()
    reference = _references.TorchReference(default, 0.25, "human", None)
    session = _references.session_of(graphs.build(default, "analysis", 0.5))
    proof = _verify.Proof(session, "graph", "analysis", "fp32", default, 0.25, reference)
    image = load_image(export_onnx.PHOTOGRAPH)[:32, :32]
    with pytest.raises(
        _verify.VerificationError, match=r"y has shape \(2, 2, 224\), not \(2, 2, 192\)"
    ):
        proof.check([image], [reference.latents(image)])


def test_our_photograph_is_one():
    image = load_image(export_onnx.PHOTOGRAPH)
    whole = load_image(PHOTOGRAPH)
    np.testing.assert_array_equal(image, whole[150:310, 130:322])


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0.3"], "width 0.3 is not in bundle 'default'"),
        (["--width", "wide"], "--width 'wide' is no list of numbers such as 0.25,1.0"),
        (["--role", "features"], "has no feature head"),
        (["--role", "encoder,decoder"], "role 'decoder' is unknown"),
        (["--task", "counting"], "task 'counting' is unknown; not in bundle 'default'"),
        (["--batch", "0"], "batch is 0"),
        (["--size", "70000x4"], "size is (70000, 4)"),
        (["--size", "70"], "'70' is no HEIGHTxWIDTH such as 512x768"),
        ([], "the following arguments are required: -o/--output"),
    ],
)
def test_usage(tmp_path, capsys, arguments, message):
    output = ["-o", str(tmp_path / "out")] if arguments else []
    try:
        code = cli.main(["export", "onnx", *output, *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not files_of(tmp_path / "out")


def test_files_that_are_not_there(tmp_path, capsys):
    shared = ["export", "onnx", "-o", str(tmp_path / "out"), "--width", "0.25"]
    for option in ("--image", "--adapters", "--model"):
        assert cli.main([*shared, option, str(tmp_path / "none")]) == 1
        assert capsys.readouterr().err.startswith("icmh: error: ")
    assert not files_of(tmp_path / "out")


def test_roles_are_checked_before_anything_is_made(tmp_path):
    with pytest.raises(OptionError, match="role 'decoder' is unknown"):
        export_onnx.export(bundle.load(), tmp_path / "out", roles=("decoder",))
    assert not (tmp_path / "out").exists()
