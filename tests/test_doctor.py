"""`icmh doctor`: one cause for whatever is broken, how to mend it, and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icmh_rt import doctor
from icmh_rt.doctor import causes, cli, probes
from icmh_rt.errors import BackendUnavailableError

ROOT = Path(__file__).resolve().parents[1]


class FakeProbe:
    """An installation in which everything works, but for what is said otherwise."""

    def __init__(self, **findings) -> None:
        self.findings = {"driver": probes.absent("no CUDA device"), **findings}
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, name: str, *arguments: str) -> probes.Finding:
        self.asked.append((name, *arguments))
        if name == "backend":
            key = f"{arguments[0]}_{arguments[1]}"
            return self.findings.get(key, probes.ok("", "encoded and decoded"))
        if name == "choice":
            return probes.ok("", "torch on cpu: fastest", backend="torch", place="cpu")
        return self.findings.get(name, probes.ok("1.0", "", gpu=True))

    def names(self) -> set[str]:
        return {asked[0] for asked in self.asked}


def examine(backend: str = "auto", device: str = "auto", **findings) -> doctor.Examination:
    return doctor.examine("default", device, backend, probe=FakeProbe(**findings))


def states(results: list[doctor.Result]) -> dict[str, str]:
    return {result.name: result.state for result in results}


def test_all_is_well():
    found = examine()
    assert found.ok and not found.problems
    assert found.choice == {"backend": "torch", "place": "cpu", "reason": "torch on cpu: fastest"}
    assert states(found.backends) == {"torch": "ok", "onnxruntime": "ok", "tensorrt": "absent"}


def test_a_gpu_is_tried_too():
    probe = FakeProbe(driver=probes.ok("", "1 CUDA device"))
    found = doctor.examine(probe=probe)
    tried = [asked[1:3] for asked in probe.asked if asked[0] == "backend"]
    assert sorted(tried) == [
        ("onnxruntime", "cpu"),
        ("onnxruntime", "cuda"),
        ("torch", "cpu"),
        ("torch", "cuda"),
    ]
    assert states(found.backends)["tensorrt"] == "untried"
    probe = FakeProbe(driver=probes.ok(), torch=probes.ok("2", "built for CPUs", gpu=False))
    doctor.examine(device="cuda:1", backend="tensorrt", probe=probe)
    tried = [asked[1:3] for asked in probe.asked if asked[0] == "backend"]
    assert sorted(tried) == [("onnxruntime", "cuda:1"), ("tensorrt", "cuda:1")]


@pytest.mark.parametrize("name", [component.name for component in doctor.COMPONENTS])
def test_what_is_broken_is_one_problem_whatever_waits_for_it(name):
    cause = "OSError: libfoo.so.3: cannot open shared object file"
    found = examine(**{name: probes.broken(cause)})
    assert [problem.component for problem in found.problems] == [name]
    assert "libfoo.so.3" in found.problems[0].cause and found.problems[0].mend
    waiting = [result for result in found.components if result.state == "waits"]
    assert all(result.cause == name for result in waiting)


@pytest.mark.parametrize("name", ["numpy", "pillow", "native"])
def test_the_core_must_be_there(name):
    found = examine(**{name: probes.absent()})
    assert [problem.component for problem in found.problems] == [name]
    assert "pip install" in found.problems[0].mend


def test_nothing_is_tried_that_cannot_work():
    probe = FakeProbe(native=probes.broken("it does not load"))
    found = doctor.examine(probe=probe)
    assert not {"bundle", "backend", "choice"} & probe.names()
    assert found.choice is None
    assert {result.cause for result in found.backends} <= {"native", "driver is not there"}


def test_one_backend_is_enough():
    found = examine(torch=probes.absent())
    assert found.ok
    assert states(found.backends)["torch"] == "absent"
    found = examine(onnx=probes.absent())
    assert found.ok
    assert states(found.backends)["onnxruntime"] == "absent"


def test_no_backend_is_a_problem():
    found = examine(torch=probes.absent(), onnxruntime=probes.absent(), onnx=probes.absent())
    (problem,) = found.problems
    assert problem.component == "backends"
    assert "icmh-rt[onnx]" in problem.mend and "icmh-rt[torch]" in problem.mend


def test_what_is_half_there_lacks_its_other_half():
    found = examine(torch=probes.absent(), onnx=probes.absent())
    assert [problem.component for problem in found.problems] == ["onnx"]
    found = examine(safetensors=probes.absent())
    (problem,) = found.problems
    assert (problem.component, problem.mend) == ("safetensors", "pip install safetensors")


def test_a_backend_that_fails_is_a_problem_of_its_own():
    found = examine(onnxruntime_cpu=probes.broken("it decodes other symbols than it encoded"))
    (problem,) = found.problems
    assert problem.component == "backend onnxruntime on cpu"
    assert "other symbols" in problem.cause


def test_only_what_a_named_backend_needs_counts():
    broken = probes.broken("ImportError: libcudnn.so.9: cannot open shared object file")
    assert examine("onnxruntime", torch=broken).ok
    assert not examine("torch", torch=broken).ok
    found = examine("torch", torch=probes.absent())
    (problem,) = found.problems
    assert (problem.component, problem.mend) == ("torch", "pip install 'icmh-rt[torch]'")
    (problem,) = examine("tensorrt").problems
    assert problem.component == "driver"


def test_a_device_that_is_not_there():
    (problem,) = examine(device="cuda").problems
    assert (problem.component, problem.cause) == ("driver", "no CUDA device")
    found = examine(device="cuda", driver=probes.ok(), torch=probes.ok("2", "", gpu=False))
    assert found.ok  # onnxruntime runs there
    (problem,) = examine("tensorrt", "cpu", driver=probes.ok()).problems
    assert problem.cause == "it does not run on cpu"


# -- causes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "mend"),
    [
        ("ImportError: libcuda.so.1: cannot open shared object file", "driver"),
        ("OSError: libnvinfer.so.10: cannot open shared object file", "TensorRT's libraries"),
        ("ImportError: libcublasLt.so.12: cannot open shared object", "CUDA libraries that pack"),
        (
            "ImportError: libGL.so.1: cannot open shared object file",
            "package that has libGL",
        ),
        ("/lib/libm.so.6: version `GLIBC_2.35' not found", "older than the package wants"),
        ("RuntimeError: Numpy is not available", "another numpy: pip install --upgrade pack"),
        ("ImportError: x.so: wrong ELF class: ELFCLASS32", "--force-reinstall --no-cache-dir pack"),
        ("ImportError: libgomp.so.1: cannot allocate memory in static TLS block", "LD_PRELOAD"),
        ("the environment variable ICMH_SIMD is 'x'", "unset ICMH_SIMD"),
        ("something that nobody has seen", "--force-reinstall --no-cache-dir pack"),
    ],
)
def test_mends(cause, mend):
    assert mend in causes.mend_for(cause, "pack")


def test_the_cause_is_the_first_failure_to_load():
    try:
        try:
            try:
                raise OSError("libfirst.so: cannot open shared object file")
            except OSError as error:
                raise ImportError("the extension\ndoes not load") from error
        except ImportError:
            raise RuntimeError("everything is broken")  # noqa: B904
    except RuntimeError as error:
        found = causes.root_of(error)
    assert found == "OSError: libfirst.so: cannot open shared object file"
    try:
        try:
            raise KeyError("unrelated")
        except KeyError:
            raise ValueError("the real one")  # noqa: B904
    except ValueError as error:
        assert causes.root_of(error) == "ValueError: the real one"
    assert causes.root_of(BackendUnavailableError("our words")) == "our words"
    assert len(causes.one_line("x" * 1000)) <= 300


# -- real processes --------------------------------------------------------------------------------


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    """A folder whose packages hide the installed ones."""
    path = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return tmp_path


def test_probes_survive_what_they_look_at(broken, monkeypatch):
    package(broken, "onnx", "raise ImportError('libprotobuf.so.3: cannot open shared object file')")
    package(broken, "triton", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    package(broken, "safetensors", "print('chatter'); import sys; sys.exit(3)")
    package(broken, "onnxruntime", "import time; time.sleep(60)")
    assert probes.run("onnx") == probes.broken(
        "ImportError: libprotobuf.so.3: cannot open shared object file"
    )
    assert probes.run("triton") == probes.broken(f"it crashed ({signal.Signals.SIGSEGV.name})")
    assert probes.run("safetensors")["cause"] == "SystemExit: 3"
    monkeypatch.setattr(probes, "TIMEOUT_S", 1.5)
    assert probes.run("onnxruntime") == probes.broken("no answer within 2 s")


def test_probes_do_not_look_into_the_current_folder(tmp_path, monkeypatch):
    package(tmp_path, "numpy", "raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert probes.run("numpy")["state"] == "ok"
    assert probes.run("native")["state"] == "ok"


def test_a_bad_environment_is_named(monkeypatch):
    monkeypatch.setenv("ICMH_SIMD", "mmx")
    found = probes.run("native")
    assert found["state"] == "broken" and "ICMH_SIMD" in found["cause"]
    assert "unset ICMH_SIMD" in causes.mend_for(found["cause"], "icmh-rt")


def test_a_missing_bundle_is_a_problem(tmp_path):
    pytest.importorskip("safetensors", reason="neither torch nor onnx extra is installed")
    found = probes.run("bundle", str(tmp_path))
    assert found["state"] == "broken" and "no bundle" in found["cause"]


def test_both_builds_of_onnxruntime_at_once_are_a_problem(broken):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = broken / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    package(broken, "onnxruntime", "__version__ = '1.0'")
    found = probes.run("onnxruntime")
    assert (
        found["cause"] == "onnxruntime and onnxruntime-gpu are both installed, in the same folder"
    )
    assert causes.mend_for(found["cause"], "onnxruntime").startswith("pip uninstall")


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_backend_is_tried_on_a_picture(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    found = probes.run("backend", name, "cpu", "default")
    assert found["state"] == "ok", found
    assert found["device"] == "cpu" and "112x80" in found["detail"]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "icmh_rt", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command(broken):
    """With an onnxruntime that does not load: named once, whatever else is installed."""
    reason = "libcudart.so.12: cannot open shared object file: No such file or directory"
    package(broken, "onnxruntime", f"raise ImportError({reason!r})")
    result = command("--json", "--device", "cpu")
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert [problem["component"] for problem in found["problems"]] == ["onnxruntime"]
    assert found["problems"][0]["cause"] == f"ImportError: {reason}"
    assert "libcudart" not in json.dumps([r for r in found["components"] if r["state"] == "waits"])
    result = command("--backend", "torch", "--device", "cpu")
    torch = {r["name"]: r["state"] for r in found["components"]}["torch"]
    assert result.returncode == (0 if torch == "ok" else 1)
    assert result.stderr == ""
    assert ("Everything that it needs works." in result.stdout) == (torch == "ok")


def test_text_and_exit_codes(monkeypatch, capsys):
    import argparse

    def run(*arguments: str, **findings) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        monkeypatch.setattr(
            cli, "examine", lambda *a: doctor.examine(*a, probe=FakeProbe(**findings))
        )
        code = cli.run(parser.parse_args(arguments))
        return code, capsys.readouterr().out

    code, out = run()
    assert code == 0 and "Everything that is installed works." in out
    assert "auto takes torch on cpu: fastest" in out
    cause = "ImportError: libcudnn.so.9: cannot open shared object file"
    code, out = run(torch=probes.broken(cause))
    assert code == 1
    assert out.count("libcudnn.so.9") == 2  # beside the component, and as the problem
    assert "To mend first: torch: ImportError: libcudnn.so.9" in out
    code, out = run("--json", native=probes.broken("no"))
    found = json.loads(out)
    assert (code, found["ok"], found["choice"]) == (1, False, None)
    assert {result["name"] for result in found["components"]} == {
        component.name for component in doctor.COMPONENTS
    }


def test_unknown_options_are_usage():
    assert command("--backend", "abacus").returncode == 2
    result = command("--device", "toaster")
    assert result.returncode == 2
    assert result.stderr.startswith("icmh: error: device 'toaster' is unknown")
