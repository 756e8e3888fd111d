"""The proof of a graph: run on pictures, and compared with what it was made from.

Three things are looked at: tensors, what is entropy coded (symbols and scale indexes), and decoded
pictures. In single precision symbols may differ from the reference's only where a value lies on the
border between two, and only rarely. Means and scale indexes must be those of the integer network's
definition in C++, number for number, in every precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icmh_rt.bundle import Bundle
from icmh_rt.coding import Prediction, coding_of
from icmh_rt.errors import IcmhError
from icmh_rt.export._references import Reference
from icmh_rt.images import size_of

QUALITIES = (1, 50, 100)


class VerificationError(IcmhError):
    """A graph computes something else than it should."""


@dataclass(frozen=True)
class Tolerance:
    """tensors: largest difference, in units of the largest value (or of 1, if that is smaller).
    symbols: share that may differ, by at most ``steps``. border: how far from a border between two
    symbols the reference's value may lie there. levels: of pictures, out of 255.
    """

    tensors: float
    symbols: float
    border: float
    levels: int
    steps: int = 1


TOLERANCES = {
    "fp32": Tolerance(tensors=1e-4, symbols=1e-4, border=0.01, levels=1),
    "fp16": Tolerance(tensors=1e-2, symbols=0.05, border=0.5, levels=3),
    # Not equality but a check that nothing is broken: what eight bits cost is rate.
    "int8": Tolerance(tensors=0.1, symbols=0.5, border=0.5, levels=64, steps=16),
    "fp8": Tolerance(tensors=0.1, symbols=0.5, border=0.5, levels=64, steps=16),
}
FEW_SYMBOLS = 2
"""So many may differ however few there are."""


@dataclass
class Figures:
    """The worst that was seen. psnr: of the pictures that the reference's latents became."""

    tensors: float = 0.0
    symbols: int = 0
    symbols_differ: int = 0
    indexes: int = 0
    levels: int = 0
    psnr: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Of what was compared."""
        found: dict[str, Any] = {}
        if self.tensors:
            found["largest_tensor_difference"] = float(f"{self.tensors:.3g}")
        if self.symbols:
            found |= {"symbols": self.symbols, "symbols_that_differ": self.symbols_differ}
        if self.indexes:
            found |= {"indexes": self.indexes, "indexes_that_differ": 0}
        if self.psnr:
            found |= {"largest_level_difference": self.levels}
            found |= {"psnr_db": round(float(np.mean(self.psnr)), 2)}
        return found


class Proof:
    """Compares one graph with its reference.

    Args:
        session: of the graph; has onnxruntime's ``run``, ``get_inputs`` and ``get_outputs``.
        title: what messages call the graph.
        role: "analysis", "encoder", "hyper_synthesis", "synthesis" or "features".
        precision: of the graph.
        reference: the same width and task.
        qualities: at which symbols are compared.
    """

    def __init__(
        self,
        session: Any,
        title: str,
        role: str,
        precision: str,
        bundle: Bundle,
        width: float,
        reference: Reference,
        qualities: Sequence[int] = QUALITIES,
    ) -> None:
        self._session = session
        self._title = title
        self._role = role
        self._tolerance = TOLERANCES[precision]
        self._reference = reference
        self._codings = {q: coding_of(bundle, width, q) for q in qualities}
        _, self._tables = bundle.width(width)
        self._network = self._tables.hyper_synthesis
        self.figures = Figures()

    def check(self, images: Sequence[np.ndarray], latents: Sequence[tuple]) -> None:
        """One run of the graph on uint8 (H, W, 3) images of one size.

        ``latents``: y and z of each, by the reference.

        Raises:
            VerificationError: names the graph, what differs, and by how much.
        """
        getattr(self, f"_check_{self._role}")(images, latents)

    def finish(self) -> dict[str, Any]:
        """What was found, after all images.

        Raises:
            VerificationError: too many symbols differ.
        """
        figures = self.figures
        allowed = max(FEW_SYMBOLS, self._tolerance.symbols * figures.symbols)
        if figures.symbols_differ > allowed:
            self._fail(
                f"{figures.symbols_differ} of {figures.symbols} symbols differ from "
                f"{self._reference.name}, at most {allowed:.0f} may"
            )
        return figures.to_dict()

    def _fail(self, what: str) -> None:
        raise VerificationError(f"{self._title} is wrong: {what}")

    # -- roles -------------------------------------------------------------------------------------

    def _check_analysis(self, images: Sequence[np.ndarray], latents: Sequence[tuple]) -> None:
        y, z = self._run({"image": np.stack(images)}, {})
        for found_y, found_z, (y_there, z_there) in zip(y, z, latents, strict=True):
            self._compare_tensors("y", found_y, y_there)
            self._compare_tensors("z", found_z, z_there)
        for quality, coding in self._codings.items():
            for image, found_y, found_z, there in zip(images, y, z, latents, strict=True):
                symbols_z = coding.quantize_hyper(found_z)
                prediction = coding.predict(symbols_z, size_of(image))
                symbols_y = coding.quantize(found_y, prediction)
                self._compare_symbols(quality, symbols_z, symbols_y, prediction, there)

    def _check_encoder(self, images: Sequence[np.ndarray], latents: Sequence[tuple]) -> None:
        for quality, coding in self._codings.items():
            outputs = self._run({"image": np.stack(images)}, {"quality": quality})
            for image, y, indexes, z, there in zip(images, *outputs, latents, strict=True):
                prediction = coding.predict(z, image.shape[:2])
                self._compare_exactly("scale indexes", indexes, prediction.indexes)
                self._compare_symbols(quality, z, y, prediction, there)

    def _check_hyper_synthesis(
        self, images: Sequence[np.ndarray], latents: Sequence[tuple]
    ) -> None:
        for quality, coding in self._codings.items():
            symbols = np.stack([coding.quantize_hyper(z) for _, z in latents])
            probe = self._network.probe_input(quality, *symbols.shape[1:3])
            probe = probe.clip(-(2**31), 2**31 - 1).astype(np.int32)
            for z in (symbols, np.broadcast_to(probe, symbols.shape)):
                means, indexes = self._run({"symbols_z": z}, {"quality": quality})
                for one, mean, index in zip(z, means, indexes, strict=True):
                    expected = self._network.run(np.ascontiguousarray(one), quality)
                    scaled = expected[0] * 2.0**-self._network.mean_bits
                    self._compare_exactly("means", mean, scaled)
                    self._compare_exactly("scale indexes", index, expected[1])

    def _check_synthesis(self, images: Sequence[np.ndarray], latents: Sequence[tuple]) -> None:
        size = size_of(images[0])
        for coding in self._codings.values():
            batch = []
            for y, z in latents:
                prediction = coding.predict(coding.quantize_hyper(z), size)
                batch.append(coding.dequantize(coding.quantize(y, prediction), prediction))
            (pictures,) = self._run(
                {"y_hat": np.stack(batch)}, {"height": size[0], "width": size[1]}
            )
            for image, y_hat, picture in zip(images, batch, pictures, strict=True):
                self._compare_pictures(image, picture, self._reference.picture(y_hat, size))

    def _check_features(self, images: Sequence[np.ndarray], latents: Sequence[tuple]) -> None:
        found = self._run({"y_hat": np.stack([y for y, _ in latents])}, {})
        names = [value.name for value in self._session.get_outputs()]
        for index, (y, _) in enumerate(latents):
            there = self._reference.features(y)
            for name, batch in zip(names, found, strict=True):
                self._compare_tensors(name, batch[index], there[name])

    # -- comparing ---------------------------------------------------------------------------------

    def _run(self, arrays: dict[str, np.ndarray], numbers: dict[str, int]) -> list[np.ndarray]:
        """``numbers`` are given where the graph asks for them: of a fixed size it does not."""
        asked = {value.name for value in self._session.get_inputs()}
        given = {k: np.array(v, np.int64) for k, v in numbers.items() if k in asked}
        return self._session.run(None, {**arrays, **given})

    def _compare_tensors(self, what: str, found: np.ndarray, there: np.ndarray) -> None:
        self._compare_shapes(what, found, there)
        unit = max(1.0, float(np.abs(there).max()))
        difference = float(np.abs(found - there).max()) / unit
        if not difference <= self._tolerance.tensors:  # NaN included
            self._fail(
                f"{what} differs from {self._reference.name} by {difference:.3g} of the largest "
                f"value, at most {self._tolerance.tensors:g} is allowed"
            )
        self.figures.tensors = max(self.figures.tensors, difference)

    def _compare_symbols(
        self,
        quality: int,
        symbols_z: np.ndarray,
        symbols_y: np.ndarray,
        prediction: Prediction,
        there: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Those of y with what the reference's y gives under the same prediction."""
        coding, row, (y, z) = self._codings[quality], quality - 1, there
        values = z * self._tables.hyper_gain[row]
        self._compare_rounded("z", symbols_z, values, coding.quantize_hyper(z))
        values = y * self._tables.gain[row] - prediction.mean
        self._compare_rounded("y", symbols_y, values, coding.quantize(y, prediction))

    def _compare_rounded(
        self, what: str, found: np.ndarray, values: np.ndarray, expected: np.ndarray
    ) -> None:
        """``expected``: symbols of the reference's ``values``."""
        self._compare_shapes(f"symbols of {what}", found, expected)
        wrong = found != expected
        self.figures.symbols += found.size
        if not wrong.any():
            return
        self.figures.symbols_differ += int(wrong.sum())
        step = int(np.abs(found - expected)[wrong].max())
        values = values[wrong]
        border = float(np.abs(values - np.floor(values) - 0.5).max())
        if step > self._tolerance.steps or border > self._tolerance.border:
            self._fail(
                f"a symbol of {what} is {step} beside that of {self._reference.name}, whose value "
                f"lies {border:.3g} from the border between two"
            )

    def _compare_exactly(self, what: str, found: np.ndarray, there: np.ndarray) -> None:
        self._compare_shapes(what, found, there)
        wrong = int(np.count_nonzero(found != there))
        if wrong:
            self._fail(
                f"{wrong} of {found.size} {what} are not those of the integer network: this "
                "runtime's float32 arithmetic is not exact"
            )
        self.figures.indexes += found.size

    def _compare_pictures(self, image: np.ndarray, found: np.ndarray, there: np.ndarray) -> None:
        self._compare_shapes("the picture", found, there)
        levels = int(np.abs(found.astype(np.int32) - there).max())
        if levels > self._tolerance.levels:
            self._fail(
                f"a picture is {levels} levels beside that of {self._reference.name}, at most "
                f"{self._tolerance.levels} are allowed"
            )
        self.figures.levels = max(self.figures.levels, levels)
        error = np.mean((found.astype(np.float64) - image) ** 2)
        self.figures.psnr.append(10.0 * np.log10(255.0**2 / max(error, 1e-9)))

    def _compare_shapes(self, what: str, found: np.ndarray, there: np.ndarray) -> None:
        if found.shape != there.shape:
            self._fail(f"{what} has shape {found.shape}, not {there.shape}")
