"""The data sets: real digits, a fixed split, IDX files and what is wrong with them."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ffrl.data import Digits, load_digits, load_mnist
from ffrl.data.digits import stratified_split
from ffrl.data.idx import read_idx
from ffrl.errors import UserError


def test_digits_are_balanced_and_split_four_to_one(digits: Digits) -> None:
    assert digits.train.shape == (4000, 28, 28)
    assert digits.held_out.shape == (1000, 28, 28)
    assert digits.train.dtype == torch.uint8
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.held_out_labels.bincount().tolist() == [100] * 10


def test_held_out_digits_are_not_among_the_trained(digits: Digits) -> None:
    trained = {image.numpy().tobytes() for image in digits.train}
    assert not any(image.numpy().tobytes() in trained for image in digits.held_out)


def test_split_never_changes(digits: Digits) -> None:
    assert digits.checksum() == "63ce2f39e6ff319103e648beb848a3bf1bc4909a90f28ad93842f9455f93e5ba"


def test_first_held_out_digits_show_every_class(digits: Digits) -> None:
    assert digits.held_out_labels[:20].tolist() == [*range(10), *range(10)]


def test_validation_digits_are_taken_from_the_trained_ones(digits: Digits) -> None:
    chosen = load_digits("digits-validation")
    assert chosen.train_labels.bincount().tolist() == [350] * 10
    assert chosen.held_out_labels.bincount().tolist() == [50] * 10
    rows = sorted(image.numpy().tobytes() for image in (*chosen.train, *chosen.held_out))
    assert rows == sorted(image.numpy().tobytes() for image in digits.train)


def test_split_takes_each_row_once() -> None:
    labels = torch.tensor([0, 1] * 10)
    train, held_out = stratified_split(labels, held_out_per_class=3, seed=1)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(20))
    assert labels[held_out].bincount().tolist() == [3, 3]


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_files_are_read_back(mnist_root: Callable[..., Path], digits: Digits, compressed: bool) -> None:
    mnist = load_mnist(mnist_root(compressed=compressed))
    assert torch.equal(mnist.train, digits.train[:30])
    assert torch.equal(mnist.train_labels, digits.train_labels[:30])
    assert torch.equal(mnist.held_out, digits.held_out[:20])
    assert torch.equal(mnist.held_out_labels, digits.held_out_labels[:20])


def test_missing_file_is_named(mnist_root: Callable[..., Path]) -> None:
    root = mnist_root()
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte: expected this file or .*\.gz, found neither"):
        load_mnist(root)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--root .*nowhere: expected a folder"):
        load_mnist(tmp_path / "nowhere")


def test_labels_must_match_images(mnist_root: Callable[..., Path], write_idx: Callable[..., Path]) -> None:
    root = mnist_root()
    write_idx(root / "train-labels-idx1-ubyte", torch.zeros(29))
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte: expected 30 labels.*found 29"):
        load_mnist(root)


def test_labels_beyond_nine_are_refused(mnist_root: Callable[..., Path], write_idx: Callable[..., Path]) -> None:
    root = mnist_root()
    write_idx(root / "train-labels-idx1-ubyte", torch.full((30,), 10))
    with pytest.raises(UserError, match=r"expected labels 0 to 9, found 10"):
        load_mnist(root)


def test_images_of_another_size_are_refused(mnist_root: Callable[..., Path], write_idx: Callable[..., Path]) -> None:
    root = mnist_root()
    write_idx(root / "train-images-idx3-ubyte", torch.zeros(30, 32, 32))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: expected images of 28x28, found 32x32"):
        load_mnist(root)


def test_labels_in_place_of_images_are_refused(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    path = write_idx(tmp_path / "file", torch.zeros(30))
    with pytest.raises(UserError, match=r"file: expected IDX magic 0x00000803.*found 0x00000801"):
        read_idx(path, rank=3)


def test_truncated_data_are_refused(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    path = write_idx(tmp_path / "file", torch.zeros(2, 28, 28))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"file: expected 1568 bytes of data for shape \(2, 28, 28\), found 1567"):
        read_idx(path, rank=3)


def test_short_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack(">HBB", 0, 8, 3))
    with pytest.raises(UserError, match=r"file: expected an IDX header of 16 bytes, found 4 bytes"):
        read_idx(path, rank=3)


def test_damaged_gzip_is_refused(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    path = write_idx(tmp_path / "file.gz", torch.arange(200) % 251, compressed=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"file\.gz: expected a whole gzip file"):
        read_idx(path, rank=1)


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("mnist", None, "expected --root DIR"),
        ("digits", Path("somewhere"), "expected only with --data mnist"),
        ("digits-validation", Path("somewhere"), "found somewhere with --data digits-validation"),
        ("letters", None, "expected digits, digits-validation or mnist, found 'letters'"),
    ],
)
def test_wrong_choice_of_data(name: str, root: Path | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_digits(name, root)
