"""The proof of an engine: `_verify.Proof`, of the graph that it was built from, as the parser got
it, and of the engine itself where a GPU here can run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icmh_rt.backends._tensorrt_builder import MAGNITUDE
from icmh_rt.backends._tensorrt_library import Library
from icmh_rt.backends._tensorrt_plans import Identity
from icmh_rt.bundle import Bundle
from icmh_rt.errors import BackendUnavailableError
from icmh_rt.export._references import Reference, session_of
from icmh_rt.export._verify import Proof
from icmh_rt.images import size_of

Batch = tuple[Sequence[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]
"""Images of one size, and y and z of each by the reference."""


class _Named:
    """An input's or output's name, as onnxruntime's sessions tell it."""

    def __init__(self, name: str) -> None:
        self.name = name


class EngineSession:
    """What a `Proof` wants of a session, on an engine."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def get_inputs(self) -> list[_Named]:
        return [_Named(name) for name in self._runner.inputs]

    def get_outputs(self) -> list[_Named]:
        return [_Named(name) for name in self._runner.outputs if name != MAGNITUDE]

    def run(self, names: None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the graph's order."""
        found = self._runner(inputs)
        return [found[output.name] for output in self.get_outputs()]


class GraphSession:
    """The same of a graph for the parser, which may have one more output."""

    def __init__(self, graph: bytes) -> None:
        import onnx

        self._session = session_of(onnx.load_from_string(graph))
        names = [output.name for output in self._session.get_outputs()]
        self._names = [name for name in names if name != MAGNITUDE]

    def get_inputs(self) -> list[Any]:
        return self._session.get_inputs()

    def get_outputs(self) -> list[_Named]:
        return [_Named(name) for name in self._names]

    def run(self, names: None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self._session.run(self._names, dict(inputs))


class Judge:
    """Proves the engines of one width and task.

    Args:
        reference: of the width and task.
        batches: uint8 (H, W, 3) images, those of a batch of one size.
        device: name of the GPU to run engines on.
    """

    def __init__(
        self,
        bundle: Bundle,
        library: Library,
        reference: Reference,
        batches: Sequence[Sequence[np.ndarray]],
        device: str,
    ) -> None:
        self._bundle, self._library, self._device = bundle, library, device
        self._reference = reference
        self._batches = [(b, [reference.latents(image) for image in b]) for b in batches]
        self._graphs: dict[bytes, dict[str, Any]] = {}

    def prove(self, identity: Identity, graph: bytes, plan: bytes) -> dict[str, Any]:
        """Everything that can be shown here; ``graph`` is what the plan was built from.

        Returns:
            against: what it was compared with · pictures: how many · graph: figures · engine:
            figures, or None where it could not be run · engine_not_run: then, why.

        Raises:
            VerificationError: the graph or the engine computes something else than it should.
            BackendUnavailableError: onnxruntime is not installed.
        """
        batches = self._fitting(identity)
        if graph not in self._graphs:  # one serves the engines of many GPUs
            title = f"the graph of {identity.name}"
            self._graphs[graph] = self._check(GraphSession(graph), title, identity, batches)
        found: dict[str, Any] = {
            "against": self._reference.name,
            "pictures": sum(len(images) for images, _ in batches),
            "graph": self._graphs[graph],
            "engine": None,
        }
        runner = runner_of(self._library, identity, plan, self._device)
        if isinstance(runner, str):
            found["engine_not_run"] = runner
        else:
            session = EngineSession(runner)
            found["engine"] = self._check(session, identity.name, identity, batches)
        return found

    def _fitting(self, identity: Identity) -> list[Batch]:
        sizes = identity.options.sizes
        return [
            (images, latents)
            for images, latents in self._batches
            if sizes.holds(size_of(images[0])) and len(images) <= sizes.batch
        ]

    def _check(
        self,
        session: Any,
        title: str,
        identity: Identity,
        batches: Sequence[Batch],
    ) -> dict[str, Any]:
        proof = Proof(
            session,
            title,
            identity.role,
            identity.eight_bits or identity.precision,
            self._bundle,
            identity.width,
            self._reference,
        )
        for images, latents in batches:
            proof.check(images, latents)
        return proof.finish()


def runner_of(library: Library, identity: Identity, plan: bytes, device: str) -> Any:
    """What runs the plan, or in words why nothing here can."""
    from icmh_rt.backends._tensorrt_engine import PlanRunner
    from icmh_rt.backends.tensorrt import device_of

    try:
        place = device_of(device)
    except BackendUnavailableError as error:
        return str(error)
    capability = "{}.{}".format(*place.cuda.compute_capability(place.index))
    if capability != identity.target.compute_capability:
        return f"the GPU here has compute capability {capability}"
    return PlanRunner(library, place, plan)
