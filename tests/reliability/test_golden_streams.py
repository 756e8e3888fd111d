"""The corpus of version 1: every stream decodes to the latents that it was made with.

A test that fails here is a broken promise to somebody's archive: CONTRIBUTING.md, "Changing a
format". tests/golden/make_streams.py adds to the corpus and never changes it. Under other settings
of libraries: test_across_machines.py; on another processor: scripts/test_aarch64_streams.sh.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("safetensors", reason="no extra with safetensors is installed")

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))

import golden_streams  # noqa: E402
from native_cases import run_python  # noqa: E402

import icmh_rt  # noqa: E402
from icmh_rt import _native, bitstream, rans  # noqa: E402
from icmh_rt import bundle as bundles  # noqa: E402
from icmh_rt.backends import available  # noqa: E402
from icmh_rt.backends.base import Latents  # noqa: E402
from icmh_rt.codec import _seals  # noqa: E402
from icmh_rt.coding import coding_of  # noqa: E402

ENTRIES = golden_streams.read()
EXPECTED = {entry.name: entry.latents for entry in ENTRIES}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    return golden_streams.unpack_bundles(tmp_path_factory.mktemp("golden"))


@pytest.fixture
def threads_restored():
    yield
    icmh_rt.set_num_threads(0)


def test_the_corpus_covers_what_bundles_have(unpacked: Path) -> None:
    assert len(EXPECTED) == len(ENTRIES), "an entry is there twice"
    for name in {entry.bundle for entry in ENTRIES}:
        of_it = [entry for entry in ENTRIES if entry.bundle == name]
        loaded = bundles.load(golden_streams.model_of(of_it[0], unpacked))
        for task in loaded.tasks:
            widths = {entry.width for entry in of_it if entry.task == task}
            assert widths == set(loaded.widths), f"{task}: run tests/golden/make_streams.py"
    assert {entry.made_by for entry in ENTRIES} >= {"torch", "onnxruntime"}
    size = sum(p.stat().st_size for p in (golden_streams.STREAMS, golden_streams.BUNDLES))
    assert size < 300_000


def test_every_stream_has_its_bundle(unpacked: Path) -> None:
    for entry in ENTRIES:
        header = bitstream.read_header(entry.data)
        loaded = bundles.load(golden_streams.model_of(entry, unpacked))
        assert header.fingerprint == loaded.fingerprint_of(entry.task), (
            f"{entry.name}: its bundle is gone, and its streams with it; keep the old one"
        )
        assert (header.task, header.quality) == (entry.task, entry.quality)
        assert (header.width, header.image_size) == (entry.width, entry.image_size)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(unpacked: Path, threads: int, threads_restored) -> None:
    assert golden_streams.digests(unpacked, threads) == EXPECTED


@pytest.mark.parametrize("level", _native.module().simd_levels())
def test_instruction_sets(unpacked: Path, level: str) -> None:
    """In a process of its own, which without torch takes no time."""
    assert _elsewhere(unpacked, ICMH_SIMD=level) == EXPECTED


@pytest.mark.parametrize("backend", [*available()])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_backends(unpacked: Path, backend: str, dtype: str) -> None:
    reason = available()[backend]
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    decoders = {}
    for entry in ENTRIES:
        if entry.bundle not in decoders:
            model = golden_streams.model_of(entry, unpacked)
            try:
                decoders[entry.bundle] = icmh_rt.Decoder(model, backend, "cpu", dtype=dtype)
            except (icmh_rt.OptionError, icmh_rt.BackendUnavailableError):
                # Only torch has converted checkpoints and every dtype.
                assert backend != "torch"
                decoders[entry.bundle] = None
        decoder = decoders[entry.bundle]
        if decoder is not None:
            assert golden_streams.digest(decoder.latents(entry.data)) == entry.latents, entry.name
    assert any(decoders.values()) or dtype != "fp32"


def test_the_writer_still_writes_these_bytes(unpacked: Path) -> None:
    """From the latents of a stream, that stream."""
    for entry in ENTRIES:
        loaded = bundles.load(golden_streams.model_of(entry, unpacked))
        latents = golden_streams.latents_decoder(loaded).latents(entry.data)
        coding = coding_of(loaded, entry.width, entry.quality)
        prediction = coding.predict(latents.symbols_z, entry.image_size)
        parts = Latents(latents.symbols_z, latents.symbols_y, prediction)
        low, high = _seals(parts, coding)
        indexes_z = coding.indexes_z(entry.image_size)
        z = rans.encode(latents.symbols_z, indexes_z, coding.tables_z, seal=low)
        y = rans.encode(latents.symbols_y, latents.indexes_y, coding.tables_y, seal=high)
        assert bitstream.pack(latents.header, z, y) == entry.data, entry.name


def _elsewhere(unpacked: Path, **environment: str) -> dict[str, str]:
    """The digests of a fresh process."""
    code = (
        f"import sys, json; from pathlib import Path\n"
        f"sys.path.insert(0, {str(GOLDEN)!r}); import golden_streams\n"
        f"print(json.dumps(golden_streams.digests(Path({str(unpacked)!r}), 2)))"
    )
    result = run_python(code, timeout=300, **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
