"""Hostile bundles, adapters, feature heads and checkpoints: one line of the family, nothing else.

Fingerprints are always mended: whoever makes a bundle can compute them. No file outside the
bundle's folder is opened for reading while it is loaded, and none is written anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

import hostile  # noqa: E402
from safetensors.numpy import load, save  # noqa: E402

import icmh_rt  # noqa: E402
from icmh_rt import adapter_files, feature_files  # noqa: E402
from icmh_rt import bundle as bundles  # noqa: E402
from icmh_rt.backends import registry  # noqa: E402
from icmh_rt.errors import BundleError, IcmhError  # noqa: E402
from icmh_rt.models.checkpoints import load_checkpoint  # noqa: E402

PICTURE = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
KINDS: Counter[str] = Counter()
"""How many kinds were tried, by what was attacked."""

# -- what is opened ----------------------------------------------------------------------------

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_audit)  # cannot be taken off again: it does nothing while _opened is None


def foreign(opened: list[str], folder: Path) -> list[str]:
    """Those that are neither in the folder nor part of Python or of a package (late imports)."""
    homes = {sys.prefix, sys.base_prefix, *sys.path, str(Path(icmh_rt.__file__).parents[1])}
    own = tuple(str(Path(home).resolve()) + os.sep for home in homes if home)
    allowed = (str(folder.resolve()) + os.sep, *own, "/proc/", "/sys/", "/dev/null")
    return [path for path in opened if not str(Path(path).resolve()).startswith(allowed)]


_failures: list[str] = []


@pytest.fixture(autouse=True)
def no_failures():
    """All that `attempt` found, at the end of a test: one failure does not hide the others."""
    _failures.clear()
    yield
    assert not _failures, "\n".join([f"{len(_failures)} failures", *_failures[:60]])


def attempt(what: str, folder: Path, act: Callable[[], object]) -> str | None:
    """Do it; the message if it raises an error of the family, None if it works. Everything else
    is a failure.
    """
    global _opened
    _opened = []
    text = None
    try:
        act()
    except IcmhError as error:
        text = str(error)
        if not text or "\n" in text or len(text) > 1100:
            _failures.append(f"{what}: {text[:200]!r}, {len(text)} characters")
    except Exception as error:
        text = type(error).__name__
        where = traceback.extract_tb(error.__traceback__)[-1]
        _failures.append(f"{what}: {text}: {str(error)[:200]!r} at {where.filename}:{where.lineno}")
    finally:
        opened, _opened = _opened, None
    outside = foreign(opened, folder)
    if outside:
        _failures.append(f"{what}: opened {outside}")
    return text


def use(folder: Path) -> None:
    """Load the bundle there and code with it."""
    loaded = bundles._load(folder)
    registry._instances.clear()
    width, task = min(loaded.widths), loaded.tasks[0]
    encoder = icmh_rt.Encoder(width, task, 50, loaded, "torch", "cpu", max_pixels=10_000)
    decoder = icmh_rt.Decoder(loaded, "torch", "cpu", max_pixels=10_000)
    decoder.decode(encoder.encode(PICTURE))


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A converted checkpoint of a few kilobytes."""
    import published_models

    from icmh_rt.convert import bundle_of

    folder = tmp_path_factory.mktemp("published") / "published"
    bundle_of(published_models.make("mbt2018-mean"), name="published").save(folder)
    return folder


def store(folder: Path, manifest: Any, weights: bytes | None = None) -> None:
    """Write a manifest and weights with the fingerprint that they have."""
    weights = (folder / bundles.WEIGHTS).read_bytes() if weights is None else weights
    if isinstance(manifest, dict) and "fingerprint" in manifest:
        if isinstance(manifest["fingerprint"], str) and len(manifest["fingerprint"]) == 8:
            manifest = {**manifest, "fingerprint": bundles._fingerprint(manifest, weights)}
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / bundles.MANIFEST).write_bytes(text)
    (folder / bundles.WEIGHTS).write_bytes(weights)


def bare_copy(folder: Path, place: Path) -> Path:
    """A copy in ``place`` without adapters and feature heads."""
    copied = place / "copy"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "adapters", ignore_errors=True)
    shutil.rmtree(copied / "features", ignore_errors=True)
    return copied


# -- manifests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "published"])
def test_manifests(kind: str, small: Path, published: Path, tmp_path: Path) -> None:
    folder = bare_copy({"small": small, "published": published}[kind], tmp_path)
    good = json.loads((folder / bundles.MANIFEST).read_text())
    trimmed = {**good, "training": {}}
    if kind == "small":  # the widths' networks are described alike: one of them is enough
        widths = trimmed.pop("hyper_synthesis")
        documents = [
            (what, {**document, "hyper_synthesis": widths})
            for what, document in hostile.changed_documents({**trimmed, "config": {}})
        ]
        for _, document in documents:
            if document.get("config") == {}:
                document["config"] = good["config"]
        documents += [
            (what, {**good, "config": config})
            for what, config in hostile.changed_documents(good["config"], hostile.VALUES[1::2])
        ]
        first = next(iter(widths))
        documents += [
            (what, {**good, "hyper_synthesis": {**widths, first: document}})
            for what, document in hostile.changed_documents(widths[first], hostile.VALUES[::3])
        ]
        documents += [
            (f"hyper_synthesis = {value}", {**good, "hyper_synthesis": value})
            for value in hostile.VALUES
        ]
    else:
        documents = list(hostile.changed_documents(trimmed))
    refused = 0
    for what, document in documents:
        store(folder, document)
        refused += attempt(f"{kind} {what}", folder, lambda: use(folder)) is not None
    KINDS["manifests"] += len(documents)
    assert refused > len(documents) // 2
    store(folder, good)
    assert attempt("as it was", folder, lambda: use(folder)) is None


def test_manifests_that_are_none(copy: Path) -> None:
    good = (copy / bundles.MANIFEST).read_bytes()
    texts = [*hostile.BOMBS, *(good[:n] for n in range(0, len(good) - 2, 97)), good + b"}"]
    for text in texts:
        store(copy, text)
        assert attempt(f"manifest {text[:30]!r}", copy, lambda: use(copy)) is not None
    KINDS["manifests"] += len(texts)


# -- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "published"])
def test_arrays_of_weights(kind: str, small: Path, published: Path, tmp_path: Path) -> None:
    folder = bare_copy({"small": small, "published": published}[kind], tmp_path)
    manifest = json.loads((folder / bundles.MANIFEST).read_text())
    arrays = load((folder / bundles.WEIGHTS).read_bytes())
    skipped = "width.100." if kind == "small" else "state.g_"  # like width.50., like state.h_
    tried = {}
    for what, changed in hostile.changed_arrays(arrays):
        of = 12 if what.startswith(("transforms.", "state.")) else 2
        if skipped not in what and _few(what, of):
            tried[what] = changed
    refused = 0
    for what, changed in tried.items():
        store(folder, manifest, save(changed))
        refused += attempt(f"{kind} {what}", folder, lambda: use(folder)) is not None
    KINDS["weights"] += len(tried)
    assert refused > len(tried) // 2


def _few(what: str, of: int = 5) -> bool:
    """One of so many arrays, the same ones always: those of transforms are many and alike."""
    return sum(what.split(":")[0].encode()) % of == 0


def test_files_of_weights(copy: Path) -> None:
    manifest = json.loads((copy / bundles.MANIFEST).read_text())
    whole = (copy / bundles.WEIGHTS).read_bytes()
    tried = list(hostile.damaged_tensor_files(whole))
    refused = 0
    for what, data in tried:
        store(copy, manifest, data)
        refused += attempt(f"weights {what}", copy, lambda: use(copy)) is not None
    KINDS["weights"] += len(tried)
    assert refused > 0.8 * len(tried)


# -- adapters and feature heads --------------------------------------------------------------------


def header_of(whole: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


@pytest.mark.parametrize(
    ("part", "metadata"),
    [("adapters", adapter_files.METADATA), ("features", feature_files.METADATA)],
)
def test_parts(part: str, metadata: str, copy: Path, tmp_path: Path) -> None:
    path = copy / part / "detection.safetensors"
    whole = path.read_bytes()
    header, _ = header_of(whole)
    described = json.loads(header["__metadata__"][metadata])
    arrays = load(whole)
    if part == "adapters":  # other adapters are other latents: the head would be refused first
        shutil.rmtree(copy / "features")
    tried = list(hostile.damaged_tensor_files(whole))
    for what, document in hostile.changed_documents(described, hostile.VALUES[::2]):
        tried.append((what, save(arrays, {metadata: json.dumps(document)})))
    for bomb in hostile.BOMBS:
        tried.append((f"{bomb[:20]!r}", save(arrays, {metadata: bomb.decode("latin-1")})))
    for what, changed in hostile.changed_arrays(arrays):
        if _few(what):
            tried.append((what, save(changed, {metadata: json.dumps(described)})))
    refused = 0
    for what, data in tried:
        path.write_bytes(data)
        refused += attempt(f"{part} {what}", copy, lambda: use_parts(copy)) is not None
    KINDS[part] += len(tried)
    assert refused > len(tried) // 2
    path.write_bytes(whole)
    assert attempt("as it was", copy, lambda: use_parts(copy)) is None
    # What is no part of the bundle yet goes the same way.
    folder = tmp_path / "into"
    shutil.copytree(copy, folder)
    add = bundles.add_adapters if part == "adapters" else bundles.add_feature_head
    before = listing(tmp_path)
    for what, document in hostile.changed_documents(described):
        if "task" in what and "places" not in what:
            loose = folder / "loose"
            loose.write_bytes(save(arrays, {metadata: json.dumps(document)}))
            attempt(f"add {what}", folder, lambda loose=loose: add(folder, loose))
            loose.unlink()
    names = {path.relative_to(tmp_path).as_posix() for path in listing(tmp_path) - before}
    assert all(name.startswith(f"into/{part}/") for name in names), names


def use_parts(folder: Path) -> None:
    """Code a task with adapters, and read its features."""
    loaded = bundles._load(folder)
    registry._instances.clear()
    if "detection" not in loaded.tasks:
        use(folder)
        return
    encoder = icmh_rt.Encoder(0.5, "detection", 50, loaded, "torch", "cpu")
    decoder = icmh_rt.Decoder(loaded, "torch", "cpu")
    data = encoder.encode(PICTURE)
    decoder.decode(data)
    if loaded.feature_heads:
        decoder.features(data)


def listing(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", ["../../escaped", "/tmp/escaped", "human/../x", "", "x\0y"])
def test_a_task_is_never_a_path(copy: Path, tmp_path: Path, task: str) -> None:
    """`add_adapters` and `add_feature_head` name files after tasks."""
    before = listing(tmp_path)
    for part, metadata, add in (
        ("adapters", adapter_files.METADATA, bundles.add_adapters),
        ("features", feature_files.METADATA, bundles.add_feature_head),
    ):
        whole = (copy / part / "detection.safetensors").read_bytes()
        described = json.loads(header_of(whole)[0]["__metadata__"][metadata])
        if part == "adapters":
            described["tasks"] = {task: described["tasks"]["detection"]}
            arrays = {k.replace("detection.", f"{task}."): v for k, v in load(whole).items()}
        else:
            described["task"], arrays = task, load(whole)
        loose = copy / "loose"
        loose.write_bytes(save(arrays, {metadata: json.dumps(described)}))
        assert attempt(f"{part} {task!r}", copy, lambda: add(copy, loose)) is not None  # noqa: B023
        loose.unlink()
    assert listing(tmp_path) == before
    assert not Path("/tmp/escaped.safetensors").exists()


# -- what is no ordinary file ----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors", "adapters/x.safetensors"])
def test_pipes_and_devices_are_not_opened(copy: Path, name: str) -> None:
    path = copy / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)  # opening one to read waits for a writer
    with pytest.raises(BundleError):
        bundles.load(copy)
    path.unlink()
    path.symlink_to("/dev/zero")  # would never end
    with pytest.raises(BundleError):
        bundles.load(copy)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError):
        bundles.load(copy)


def test_files_above_the_limits_are_not_read(copy: Path) -> None:
    for name in (bundles.MANIFEST, bundles.WEIGHTS, "adapters/detection.safetensors"):
        path = copy / name
        kept = path.read_bytes()
        with open(path, "wb") as file:
            file.truncate(2**33)  # a hole: it takes no disk
        tracemalloc.start()
        try:
            with pytest.raises(BundleError, match="which is the limit"):
                bundles.load(copy)
            assert tracemalloc.get_traced_memory()[1] < 5e6
        finally:
            tracemalloc.stop()
        path.write_bytes(kept)


# -- claims of sizes -------------------------------------------------------------------------------


def test_claims_of_sizes_allocate_nothing(copy: Path) -> None:
    """Sizes that only the description has: the arrays are small."""
    import resource

    manifest = json.loads((copy / bundles.MANIFEST).read_text())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("channels", "latent_channels", "hyper_channels", "hyper_latent_channels"):
        for value in (16_000, 10**6, 10**12):
            config = {**manifest["config"], name: [8, value]}
            store(copy, {**manifest, "config": config})
            assert attempt(f"{name} {value}", copy, lambda: use(copy)) is not None
    for name in ("blocks_8", "blocks_16"):
        for value in (60, 10**12):
            config = {**manifest["config"], name: [1, value]}
            store(copy, {**manifest, "config": config})
            assert attempt(f"{name} {value}", copy, lambda: use(copy)) is not None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kilobytes


# -- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints(tmp_path: Path) -> None:
    import published_models

    state = published_models.make("bmshj2018-factorized").state_dict()
    arrays = {key: value.numpy() for key, value in state.items()}
    path = tmp_path / "checkpoint.safetensors"
    tried = list(hostile.damaged_tensor_files(save(arrays)))
    tried += [(what, save(a)) for what, a in hostile.changed_arrays(arrays) if _few(what)]
    torch.save(state, tmp_path / "state.pt")
    whole = (tmp_path / "state.pt").read_bytes()
    tried += [(f"cut to {n}", whole[:n]) for n in np.linspace(0, len(whole) - 1, 30).astype(int)]
    rng = np.random.default_rng(2)
    for _ in range(60):
        data = bytearray(whole)
        at = int(rng.integers(0, len(data)))
        data[at : at + 4] = rng.bytes(4)
        tried.append((f"altered at {at}", bytes(data)))
    for what, data in tried:
        path.write_bytes(data)
        attempt(f"checkpoint {what}", tmp_path, lambda: load_checkpoint(path))
    KINDS["checkpoints"] += len(tried)


class _Runs:
    """What would run a command if it were unpickled."""

    def __init__(self, marker: Path) -> None:
        self._command = (os.mkdir, (str(marker),))

    def __reduce__(self):
        return self._command


def test_no_pickle_runs(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "ran"
    places = {
        "pickle": pickle.dumps(_Runs(marker)),
        "in a dictionary": pickle.dumps({"state_dict": _Runs(marker)}),
    }
    torch.save({"state_dict": _Runs(marker)}, tmp_path / "zip.pt")
    places["torch"] = (tmp_path / "zip.pt").read_bytes()
    torch.save({"x": _Runs(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    places["old torch"] = (tmp_path / "old.pt").read_bytes()
    for what, data in places.items():
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(data)
        assert attempt(what, tmp_path, lambda: load_checkpoint(path)) is not None  # noqa: B023
        for name in ("adapters.safetensors", "model.safetensors", "features.safetensors"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(BundleError):
                adapter_files.read_adapters(tmp_path / name, {})
            with pytest.raises(BundleError):
                feature_files.read_feature_head(tmp_path / name)
        assert not marker.exists()


def test_a_thousand_kinds_were_tried() -> None:
    """Last of this file: what the tests above have counted."""
    if len(KINDS) < 5:
        pytest.skip("not all tests of this file ran before this one")
    assert sum(KINDS.values()) >= 1000, KINDS
