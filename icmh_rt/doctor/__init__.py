"""Examines an installation: what is there, what is not, and the one thing to mend.

Components need each other (a backend its library, everything the native module). What fails only
because something below it does is said to wait for that and is no problem of its own, so that one
broken library is one problem, whatever it takes with it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from icmh_rt.doctor import causes, probes

OK, ABSENT, BROKEN, WAITS, UNTRIED = "ok", "absent", "broken", "waits", "untried"
_WORKERS = 4


@dataclass(frozen=True)
class Component:
    """Something that may be installed.

    needs: components that must be ok before it is looked at · package: what pip calls it · install:
    how to get it · core: nothing works without it.
    """

    name: str
    needs: tuple[str, ...] = ()
    package: str = ""
    install: str = ""
    core: bool = False


_TORCH = "pip install 'icmh-rt[torch]'"
_ONNX = "pip install 'icmh-rt[onnx]'"
_REINSTALL = "pip install --force-reinstall icmh-rt"

COMPONENTS = (
    Component("numpy", package="numpy", install="pip install numpy", core=True),
    Component("pillow", package="pillow", install="pip install pillow", core=True),
    Component("native", ("numpy",), "icmh-rt", _REINSTALL, core=True),
    Component("safetensors", ("numpy",), "safetensors", "pip install safetensors"),
    Component("bundle", ("native", "safetensors"), "icmh-rt", _REINSTALL),
    Component("driver", install="needed for GPUs only"),
    Component("torch", ("numpy",), "torch", _TORCH),
    Component("triton", ("torch",), "triton", "needed for GPUs only"),
    Component("onnx", ("numpy",), "onnx", _ONNX),
    Component("onnxruntime", ("numpy",), "onnxruntime", _ONNX),
    Component("tensorrt", (), "tensorrt", "needed for GPUs only: docs/deploy.md"),
)

# What a backend needs besides the bundle.
BACKENDS = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "tensorrt": ("driver", "tensorrt"),
}


@dataclass(frozen=True)
class Result:
    """What was found of a component or a backend.

    state: ok, absent, broken, waits (for what is named in ``cause``) or untried · cause: of any
    state but ok · mend: what to do about it · facts: more, by name.
    """

    name: str
    state: str
    version: str = ""
    detail: str = ""
    cause: str = ""
    mend: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something to mend."""

    component: str
    cause: str
    mend: str


@dataclass(frozen=True)
class Examination:
    """All that was found.

    problems: the most basic first; nothing in it follows from another · choice: what "auto" takes,
    ``backend``, ``place`` and ``reason``; None if it can take nothing.
    """

    icmh_rt: str
    python: str
    platform: str
    environment: dict[str, str]
    components: list[Result]
    backends: list[Result]
    choice: dict[str, str] | None
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"ok": self.ok, **asdict(self)}


def examine(
    model: str = "default",
    device: str = "auto",
    backend: str = "auto",
    probe: Callable[..., probes.Finding] = probes.run,
) -> Examination:
    """Look at everything, and say what is wrong; with ``backend``, with what that needs.

    Args:
        model: the bundle to try, a name or a folder.
        device: "auto", "cpu", "cuda" or "cuda:N", where to try.
        backend: "auto", or the one that has to work.
        probe: what looks (`probes.run`).
    """
    import icmh_rt

    with ThreadPoolExecutor(_WORKERS) as pool:
        found = _components(model, lambda jobs: pool.map(lambda job: probe(*job), jobs))
        tried = _backends(found, model, device, backend, lambda j: pool.map(lambda a: probe(*a), j))
        choice = None
        if found["bundle"].state == OK and any(r.state == OK for r in tried):
            chosen = probe("choice", model, device)
            if chosen["state"] == OK:
                choice = {k: chosen[k] for k in ("backend", "place")} | {"reason": chosen["detail"]}
    return Examination(
        icmh_rt=icmh_rt.__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        environment={k: v for k, v in sorted(os.environ.items()) if k.startswith("ICMH_")},
        components=list(found.values()),
        backends=tried,
        choice=choice,
        problems=_problems(found, tried, backend, device),
    )


_Look = Callable[[Iterable[tuple[str, ...]]], Iterable[probes.Finding]]


def _components(model: str, look: _Look) -> dict[str, Result]:
    """Every component, those that others need first."""
    found: dict[str, Result] = {}
    left = list(COMPONENTS)
    while left:
        ready = [c for c in left if all(name in found for name in c.needs)]
        left = [c for c in left if c not in ready]
        waiting = {c.name: _waits_for(c.needs, found) for c in ready}
        asked = [c for c in ready if waiting[c.name] is None]
        jobs = [(c.name, model) if c.name == "bundle" else (c.name,) for c in asked]
        findings = dict(zip((c.name for c in asked), look(jobs), strict=True))
        for component in ready:
            found[component.name] = _result(component, waiting, findings)
    return {component.name: found[component.name] for component in COMPONENTS}


def _result(
    component: Component, waiting: dict[str, str | None], findings: dict[str, probes.Finding]
) -> Result:
    name, blocker = component.name, waiting[component.name]
    if blocker is not None:
        return Result(name, WAITS, cause=blocker)
    finding = findings[name]
    if finding["state"] == OK:
        facts = {k: v for k, v in finding.items() if k not in ("state", "version", "detail")}
        return Result(name, OK, finding["version"], finding["detail"], facts=facts)
    cause = finding["cause"]
    if finding["state"] == ABSENT:
        return Result(name, ABSENT, cause=cause, mend=component.install)
    return Result(name, BROKEN, cause=cause, mend=causes.mend_for(cause, component.package))


def _waits_for(needs: Iterable[str], found: dict[str, Result]) -> str | None:
    """The first of ``needs`` that is not ok, or what that waits for itself."""
    for name in needs:
        if found[name].state == WAITS:
            return found[name].cause
        if found[name].state != OK:
            return name
    return None


def _backends(
    found: dict[str, Result], model: str, device: str, backend: str, look: _Look
) -> list[Result]:
    """Every backend, tried wherever it can run of the places that were asked for."""
    results: list[Result] = []
    jobs: list[tuple[str, ...]] = []
    for name, needs in BACKENDS.items():
        blocker = _waits_for(("bundle", *needs), found)
        if blocker is not None and found[blocker].state == ABSENT:
            cause, mend = f"{blocker} is not there", found[blocker].mend
            results.append(Result(name, ABSENT, cause=cause, mend=mend, facts={"needs": blocker}))
        elif blocker is not None:
            results.append(Result(name, WAITS, cause=blocker))
        elif name == "tensorrt" and backend != name:
            mend = "icmh doctor --backend tensorrt"
            results.append(Result(name, UNTRIED, cause="making engines takes minutes", mend=mend))
        else:
            jobs += [("backend", name, place, model) for place in _places(name, device, found)]
    for (_, name, place, _), finding in zip(jobs, look(jobs), strict=True):
        facts = {"place": place}
        if finding["state"] == OK:
            results.append(Result(name, OK, detail=finding["detail"], facts=facts))
        else:
            mend = causes.mend_for(finding["cause"], name)
            results.append(Result(name, BROKEN, cause=finding["cause"], mend=mend, facts=facts))
    return sorted(results, key=lambda result: list(BACKENDS).index(result.name))


def _places(name: str, device: str, found: dict[str, Result]) -> list[str]:
    """Where a backend can run, of what ``device`` allows."""
    places = [] if name == "tensorrt" else ["cpu"]
    if found["driver"].state == OK and found[name].facts.get("gpu", True):
        places.insert(0, "cuda")
    if device == "auto":
        return places
    return [device] if device.partition(":")[0] in places else []


def _problems(
    found: dict[str, Result], tried: list[Result], backend: str, device: str
) -> list[Problem]:
    """What to mend, the most basic first. What waits for something is not in it."""
    core = {component.name for component in COMPONENTS if component.core}
    wanted = {*found}
    if backend != "auto":
        wanted = {*core, "safetensors", "bundle", *BACKENDS[backend]}
        tried = [result for result in tried if result.name == backend]
    problems = [
        Problem(result.name, result.cause, result.mend)
        for name, result in found.items()
        if name in wanted
        and (result.state == BROKEN or (result.state == ABSENT and result.name in core))
    ]
    problems += [
        Problem(f"backend {r.name} on {r.facts['place']}", r.cause, r.mend)
        for r in tried
        if r.state == BROKEN
    ]
    if problems or any(result.state in (OK, UNTRIED) for result in tried):
        return problems
    if device.startswith("cuda") and found["driver"].state == ABSENT:
        return [Problem("driver", found["driver"].cause, "use --device cpu")]
    # Of backends that are half there, what the other half is.
    for result in tried:
        lacking = result.facts.get("needs", "")
        half = lacking != "driver" and any(found[n].state == OK for n in BACKENDS[result.name])
        if result.state == ABSENT and (half or backend != "auto"):
            return [Problem(lacking, found[lacking].cause, found[lacking].mend)]
    if backend != "auto":
        return [Problem(f"backend {backend}", f"it does not run on {device}", "use --device auto")]
    names = ", ".join(BACKENDS)
    return [Problem("backends", f"none is installed, of {names}", f"{_ONNX}, or {_TORCH}")]
