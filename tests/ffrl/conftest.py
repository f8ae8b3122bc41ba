"""Small real digits, small presets, and IDX files in their real format."""

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ffrl.data import Digits, load_digits_5k
from ffrl.presets import Preset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and waiting threads slow down whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return load_digits_5k()


@pytest.fixture
def small_preset() -> Preset:
    small = {"latent_dim": 6, "hidden": (32, 16), "potential_width": 8, "batch_size": 6}
    return Preset(**small, substeps=1, warmup_iterations=2, ema_every=2)


@pytest.fixture(scope="session")
def write_idx() -> Callable[..., Path]:
    """Writes an IDX file of unsigned bytes, as the MNIST site distributes them."""

    def write(path: Path, values: Tensor, *, compressed: bool = False) -> Path:
        header = struct.pack(">HBB", 0, 0x08, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
        raw = header + values.to(torch.uint8).numpy().tobytes()
        path.write_bytes(gzip.compress(raw) if compressed else raw)
        return path

    return write


@pytest.fixture
def mnist_root(tmp_path: Path, digits: Digits, write_idx: Callable[..., Path]) -> Callable[..., Path]:
    """Writes the four files of a small MNIST: 30 training and 20 test digits."""

    def write(*, compressed: bool = False) -> Path:
        root = tmp_path / "mnist"
        root.mkdir()
        ending = ".gz" if compressed else ""
        for part, images, labels in (
            ("train", digits.train[:30], digits.train_labels[:30]),
            ("t10k", digits.held_out[:20], digits.held_out_labels[:20]),
        ):
            write_idx(root / f"{part}-images-idx3-ubyte{ending}", images, compressed=compressed)
            write_idx(root / f"{part}-labels-idx1-ubyte{ending}", labels, compressed=compressed)
        return root

    return write
