"""scripts/check_gpu.sh: steps fail one by one, and a machine without a GPU is called that."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

ROOT = Path(__file__).resolve().parent.parent
GPU = {
    "available": True,
    "name": "Some GPU",
    "capability": "9.0",
    "memory_bytes": 80 << 30,
    "driver": "1.2",
    "torch": "2.0",
    "triton": None,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_gpu", ROOT / "scripts" / "check_gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_gpu"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_gpu"]


def steps(script, *rows: tuple[str, str, float]) -> list:
    return [script.Step(name, [sys.executable, "-c", code], limit) for name, code, limit in rows]


def test_without_a_gpu_it_says_so_and_is_no_success(tmp_path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    ran = subprocess.run(
        [ROOT / "scripts" / "check_gpu.sh", "--out", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 3, ran.stderr
    assert "THERE IS NO GPU HERE" in ran.stdout and "NOTHING WAS CHECKED ON A GPU" in ran.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["checked_on_a_gpu"] is False
    names = [(step["name"], step["status"], step["reason"]) for step in report["steps"]]
    wanted = ("build", "tests", "latency", "sfma")
    assert names == [(name, "not run", "no GPU") for name in wanted]
    assert "There is no GPU" in (tmp_path / "report.md").read_text()


def test_it_fits_into_eight_minutes(script, tmp_path) -> None:
    made = script._steps(tmp_path, on_gpu=True)
    assert sum(step.limit_s for step in made) <= script.TOTAL_S < 8 * 60


def test_gpu_steps_run_every_gpu_test_and_the_real_sizes(script, tmp_path) -> None:
    commands = {step.name: step.command for step in script._steps(tmp_path, on_gpu=True)}
    assert "tests/test_cuda_graphs.py" in commands["tests"]
    assert "tests/test_codec.py" not in commands["tests"]
    assert not any("--quick" in command for command in commands.values())
    assert commands["sfma"][commands["sfma"].index("--device") + 1] == "cuda"


def test_a_failing_step_does_not_stop_the_rest(script, tmp_path, monkeypatch, capsys) -> None:
    made = steps(
        script,
        ("first", "print('hello'); raise SystemExit(4)", 20),
        ("second", "import time; print('be' + 'gun', flush=True); time.sleep(60)", 3),
        ("third", "pass", 20),
    )
    monkeypatch.setattr(script, "_device", lambda: GPU)
    monkeypatch.setattr(script, "_steps", lambda folder, on_gpu: made)
    monkeypatch.setattr(script, "_read_result", lambda *arguments: None)
    begin = time.monotonic()
    assert script.main(["--out", str(tmp_path)]) == 1
    assert time.monotonic() - begin < 40
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["status"] for step in report["steps"]] == ["failed", "timed out", "ok"]
    assert report["steps"][0]["exit_code"] == 4 and report["steps"][0]["tail"] == ["hello"]
    page = (tmp_path / "report.md").read_text()
    assert "Some GPU" in page and "| second | timed out |" in page and "begun" in page
    assert "failed: first, second" in capsys.readouterr().out


def test_all_well_is_zero(script, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script, "_device", lambda: GPU)
    monkeypatch.setattr(script, "_steps", lambda *_: steps(script, ("only", "pass", 20)))
    monkeypatch.setattr(script, "_read_result", lambda *arguments: None)
    assert script.main(["--out", str(tmp_path)]) == 0


def test_the_total_cuts_the_last_steps(script, tmp_path) -> None:
    (step,) = steps(script, ("late", "pass", 20))
    script._run(step, tmp_path / "late.log", time.monotonic())
    assert (step.status, step.reason) == ("timed out", "no time was left")


def test_what_a_step_started_ends_with_it(script, tmp_path) -> None:
    """The limit kills its children too: nothing goes on using the GPU."""
    note = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(note)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (step,) = steps(script, ("parent", code, 2))
    script._run(step, tmp_path / "log", time.monotonic() + 60)
    assert (step.status, step.reason) == ("timed out", "it took over 2 s")
    time.sleep(3.5)
    assert not note.exists()


JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="1 != 2">trace</failure></testcase>
<testcase classname="a" name="broken"><error message="no fixture"/></testcase>
<testcase classname="a" name="left"><skipped message="no nvcc"/></testcase>
</testsuite></testsuites>"""


def test_counts_of_tests(script, tmp_path) -> None:
    (tmp_path / "tests.xml").write_text(JUNIT)
    found = script._counts(tmp_path / "tests.xml")
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    assert found["failures"][0] == {"name": "a::bad", "message": "1 != 2"}
    assert found["reasons"] == {"no nvcc": 1}
    assert script._counts(tmp_path / "nothing.xml") == {}


def test_no_test_that_ran_is_no_success(script, tmp_path) -> None:
    """On a GPU, tests that are all skipped hide a gap."""
    step = script.Step("tests", [], 1.0, status="ok")
    (tmp_path / "tests.xml").write_text(JUNIT.replace('<testcase classname="a" name="good"/>', ""))
    script._read_result(step, tmp_path, on_gpu=True)
    assert (step.status, step.reason) == ("failed", "no test ran")


@pytest.mark.parametrize(
    ("built", "nvcc", "reason"),
    [
        (["_C.so", "_cuda_kernels.so"], "/bin/nvcc", ""),
        (["_C.so"], None, ""),
        (["_C.so"], "/bin/nvcc", "there is no icmh_rt/_cuda_kernels.so"),
        ([], None, "there is no icmh_rt/_C"),
    ],
)
def test_a_build_that_leaves_something_out_is_a_failure(
    script, tmp_path, monkeypatch, built, nvcc, reason: str
) -> None:
    (tmp_path / "icmh_rt").mkdir()
    for name in built:
        (tmp_path / "icmh_rt" / name).touch()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script.shutil, "which", lambda name: nvcc)
    step = script.Step("build", [], 1.0, status="ok")
    script._read_result(step, tmp_path, on_gpu=True)
    assert (step.status, step.reason) == ("failed" if reason else "ok", reason)


def test_missed_bars_are_named(script, tmp_path) -> None:
    step = script.Step("sfma", [], 1.0, status="failed", reason="exit code 1")
    bars = [{"what": "fast", "met": True}, {"what": "faster", "met": False}]
    (tmp_path / "sfma.json").write_text(json.dumps({"bars": bars}))
    (tmp_path / "sfma.md").write_text("# SFMA\n\n## case\n")
    script._read_result(step, tmp_path, on_gpu=True)
    assert step.reason == "missed: faster"
    assert "### case" in script._section(vars(step))


def test_figures_that_are_not_there_are_a_failure(script, tmp_path) -> None:
    step = script.Step("latency", [], 1.0, status="ok")
    script._read_result(step, tmp_path, on_gpu=True)
    assert step.status == "failed" and step.reason.startswith("it wrote no figures")
