"""Train the networks of the task benchmarks from scratch, on a CPU.

    python benchmarks/tasks/train.py classifier --data DIR --output FILE [--epochs N] [--resume]
    python benchmarks/tasks/train.py segmenter  --data DIR --output FILE [--epochs N] [--resume]

classifier: DIR/train and DIR/val, a folder of images for each class. segmenter: DIR/train, DIR/val
and DIR/train_labels, DIR/val_labels, label images of the same names whose pixels are classes; what
is not below --classes counts for nothing. The network is trained on the train part; its accuracy on
the val part is printed after every few epochs and does not choose anything. FILE gets the weights
of the end, averaged over the last steps, FILE.ckpt all that --resume needs.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from networks import Classifier, Segmenter, parameters_of, save
from PIL import Image
from torch import Tensor, nn

VOID = 255
CLASSIFIER_SIDE = 160  # images are scaled to this short side plus a margin, and cropped
SEGMENTER_CROP = (256, 320)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    task = _Classification(options) if options.what == "classifier" else _Segmentation(options)
    _train(task, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("classifier", "segmenter"))
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--classes", type=int, default=11, help="of a segmenter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--report-every", type=int, default=5, metavar="EPOCHS")
    parser.add_argument("--resume", action="store_true")
    return parser


class _Classification:
    def __init__(self, options: argparse.Namespace) -> None:
        folder = Path(options.data)
        self.names = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
        self.model: nn.Module = Classifier(len(self.names))
        self.train, self.val = (self._read(folder / part) for part in ("train", "val"))
        self.count = len(self.train)

    def _read(self, folder: Path) -> list[tuple[np.ndarray, int]]:
        """Scaled to a short side of 9/8 of what the network sees."""
        images = []
        for label, name in enumerate(self.names):
            for path in sorted((folder / name).iterdir()):
                with Image.open(path) as image:
                    image = image.convert("RGB")
                    scale = CLASSIFIER_SIDE * 9 / 8 / min(image.size)
                    size = tuple(max(CLASSIFIER_SIDE, round(s * scale)) for s in image.size)
                    images.append((np.asarray(image.resize(size, Image.BICUBIC)), label))
        return images

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = rng.permutation(self.count)
        for start in range(0, self.count - size + 1, size):
            chosen = [self.train[i] for i in order[start : start + size]]
            crops = torch.stack([self._augment(image, rng) for image, _ in chosen])
            labels = F.one_hot(torch.tensor([label for _, label in chosen]), len(self.names))
            # mixup (Zhang et al., ICLR 2018)
            weight = float(rng.beta(0.2, 0.2))
            other = torch.from_numpy(rng.permutation(size))
            crops = weight * crops + (1 - weight) * crops[other]
            yield crops, weight * labels + (1 - weight) * labels[other]

    @staticmethod
    def _augment(image: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A random part of the image, its sides and its colours changed a little."""
        height, width = image.shape[:2]
        area = rng.uniform(0.35, 1.0) * height * width
        ratio = math.exp(rng.uniform(-0.25, 0.25)) * width / height
        h = min(height, max(32, round(math.sqrt(area / ratio))))
        w = min(width, max(32, round(math.sqrt(area * ratio))))
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        part = image[top : top + h, left : left + w]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        x = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, (CLASSIFIER_SIDE,) * 2, mode="bilinear", antialias=True)[0]
        x = (x - x.mean()) * rng.uniform(0.7, 1.3) + x.mean() * rng.uniform(0.75, 1.25)
        return (x * torch.from_numpy(rng.uniform(0.9, 1.1, (3, 1, 1))).float()).clamp(0, 1)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels, label_smoothing=0.1)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> str:
        right = 0
        for image, label in self.val:
            top = (image.shape[0] - CLASSIFIER_SIDE) // 2
            left = (image.shape[1] - CLASSIFIER_SIDE) // 2
            part = image[top : top + CLASSIFIER_SIDE, left : left + CLASSIFIER_SIDE]
            x = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float() / 255
            right += int(model(x).argmax() == label)
        return f"top-1 {100 * right / len(self.val):.1f} % of {len(self.val)}"


class _Segmentation:
    def __init__(self, options: argparse.Namespace) -> None:
        folder = Path(options.data)
        self.classes = options.classes
        self.model: nn.Module = Segmenter(self.classes)
        self.train, self.val = (self._read(folder, part) for part in ("train", "val"))
        self.count = len(self.train)

    @staticmethod
    def _read(folder: Path, part: str) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = []
        for path in sorted((folder / part).iterdir()):
            label = (folder / f"{part}_labels" / path.name).with_suffix(".png")
            with Image.open(path) as image, Image.open(label) as labels:
                pairs.append((np.asarray(image.convert("RGB")), np.asarray(labels)))
        return pairs

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = rng.permutation(self.count)
        for start in range(0, self.count - size + 1, size):
            chosen = [self._augment(*self.train[i], rng) for i in order[start : start + size]]
            yield torch.stack([x for x, _ in chosen]), torch.stack([y for _, y in chosen])

    def _augment(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        height, width = SEGMENTER_CROP
        scale = math.exp(rng.uniform(-0.35, 0.35))
        h, w = (min(s, round(c / scale)) for s, c in zip(image.shape, SEGMENTER_CROP, strict=False))
        top = rng.integers(0, image.shape[0] - h + 1)
        left = rng.integers(0, image.shape[1] - w + 1)
        part, marks = (a[top : top + h, left : left + w] for a in (image, labels))
        if rng.random() < 0.5:
            part, marks = part[:, ::-1], marks[:, ::-1]
        x = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float() / 255
        x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)[0]
        y = torch.from_numpy(marks.copy())[None, None].float()
        y = F.interpolate(y, (height, width), mode="nearest")[0, 0].long()
        x = (x - x.mean()) * rng.uniform(0.7, 1.3) + x.mean() * rng.uniform(0.75, 1.25)
        return x.clamp(0, 1), torch.where(y < self.classes, y, VOID)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels, ignore_index=VOID)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> str:
        table = np.zeros((self.classes, self.classes), np.int64)
        for image, labels in self.val:
            x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            found = model(x)[0].argmax(0).numpy()
            known = labels < self.classes
            pairs = self.classes * labels[known].astype(np.int64) + found[known]
            table += np.bincount(pairs, minlength=table.size).reshape(table.shape)
        both = np.diag(table)
        union = table.sum(0) + table.sum(1) - both
        return f"mIoU {100 * np.mean(both[union > 0] / union[union > 0]):.1f} % of {len(self.val)}"


def _train(task: _Classification | _Segmentation, options: argparse.Namespace) -> None:
    model = task.model.to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    steps = options.epochs * (task.count // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, steps, pct_start=0.1)
    first, checkpoint = 0, Path(f"{options.output}.ckpt")
    if options.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for part, name in ((model, "model"), (average, "average"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    print(f"{parameters_of(model):,} parameters, {task.count} images", flush=True)
    started = time.monotonic()
    for epoch in range(first, options.epochs):
        model.train()
        rng = np.random.default_rng([options.seed, epoch])
        losses = []
        for images, labels in task.batches(rng, options.batch):
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(images)
            loss = task.loss(scores.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            losses.append(loss.item())
        line = f"epoch {epoch + 1} loss {np.mean(losses):.4f} {time.monotonic() - started:.0f} s"
        if (epoch + 1) % options.report_every == 0 or epoch + 1 == options.epochs:
            line += f" {task.accuracy(average.module.eval())}"
        print(line, flush=True)
        state = {"epoch": epoch + 1, "schedule": schedule.state_dict()}
        state |= {"model": model.state_dict(), "average": average.state_dict()}
        torch.save({**state, "optimizer": optimizer.state_dict()}, f"{checkpoint}.new")
        Path(f"{checkpoint}.new").replace(checkpoint)
    save(average.module.eval(), options.output)


if __name__ == "__main__":
    sys.exit(main())
