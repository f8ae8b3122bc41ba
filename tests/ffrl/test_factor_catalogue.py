"""Data sets by name."""

import math
from pathlib import Path

import pytest
import torch

from ffrl.data import (
    DATASETS,
    DigitDataset,
    DSprites,
    Factor,
    FactorDataset,
    FactorImages,
    SequenceSampler,
    find_dataset,
    load_falcor3d,
    load_isaac3d,
)
from ffrl.data import catalogue as catalogue_module
from ffrl.data import dsprites as dsprites_module
from ffrl.data import shapes3d as shapes3d_module
from ffrl.data.image_folders import FALCOR3D_FACTORS, ISAAC3D_FACTORS
from ffrl.errors import UserError
from samples import write_dsprites, write_png_folder, write_shapes3d


@pytest.mark.parametrize(
    ("name", "count", "num_steps", "image_shape"),
    [("sprites", 4, 5, (1, 64, 64)), ("shapes", 5, 7, (3, 64, 64))],
)
def test_drawn_sets_need_no_files(name: str, count: int, num_steps: int, image_shape: tuple[int, int, int]) -> None:
    data = find_dataset(name)
    assert (data.name, len(data.transformations), data.num_steps, data.image_shape) == (
        name,
        count,
        num_steps,
        image_shape,
    )
    drawn = data.sampler(count, 1, 0.0, torch.Generator().manual_seed(0))
    assert drawn.render(drawn.plan()).frames.shape == (count, 2, *image_shape)


def test_digits_keep_their_own_sampler() -> None:
    data = find_dataset("digits")
    assert isinstance(data, DigitDataset)
    assert (data.transformations, data.num_steps, data.image_shape) == (("scale", "rotate", "colour"), 8, (3, 28, 28))
    assert isinstance(data.sampler(3, 1, 0.0, torch.Generator()), SequenceSampler)


def test_dsprites_by_name(tmp_path: Path) -> None:
    write_dsprites(tmp_path / dsprites_module.FILE_NAME)
    data = find_dataset("dsprites", tmp_path)
    assert isinstance(data, FactorDataset) and isinstance(data.images, DSprites)
    assert (data.transformations, data.num_steps) == (("scale", "orientation", "x", "y"), 5)


def test_shapes3d_by_name(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    write_shapes3d(tmp_path / shapes3d_module.FILE_NAME)
    data = find_dataset("shapes3d", tmp_path)
    assert (data.transformations, data.num_steps) == (
        ("floor_hue", "wall_hue", "object_hue", "scale", "orientation"),
        7,
    )


@pytest.mark.parametrize(("name", "load"), [("falcor3d", load_falcor3d), ("isaac3d", load_isaac3d)])
def test_folders_by_name_want_all_files(name: str, load: object, tmp_path: Path) -> None:
    assert catalogue_module._ENTRIES[name].load is load
    with pytest.raises(UserError, match=rf"expected \d{{6}} PNG files \({name}\), found 3"):
        find_dataset(name, write_png_folder(tmp_path / "set", 3, 8))


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("dsprites", dsprites_module.FACTORS),
        ("shapes3d", shapes3d_module.FACTORS),
        ("falcor3d", FALCOR3D_FACTORS),
        ("isaac3d", ISAAC3D_FACTORS),
        ("sprites", dsprites_module.FACTORS),
        ("shapes", shapes3d_module.FACTORS),
    ],
)
def test_sequences_of_the_published_factors_have_room(name: str, factors: tuple[Factor, ...]) -> None:
    """K and T of each set on its published factor sizes, without its images; every split leaves enough to train on."""
    entry = catalogue_module._ENTRIES[name]

    class Addresses(FactorImages):
        def __init__(self) -> None:
            self.name, self.factors, self.image_shape = name, factors, (1, 1, 1)

        def images(self, states: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(states), 1, 1, 1, dtype=torch.uint8)

        def checksum(self) -> str:
            return name

    data = FactorDataset(Addresses(), entry.moving, entry.num_steps)
    train, held_out = (data.drawn(part, torch.Generator()) for part in ("train", "held_out"))
    for k, moving in enumerate(entry.moving):
        factor = train.images.factors[train.images.column(moving)]
        starts = factor.distinct if factor.cyclic else factor.size - entry.num_steps
        possible = math.prod(each.distinct for each in factors) // factor.distinct * starts
        assert train.count(k) > 0.66 * possible
        assert held_out.count(k) >= 200


def test_mnist_by_name_wants_a_root() -> None:
    with pytest.raises(UserError, match="--data mnist: expected --root DIR"):
        find_dataset("mnist")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=rf"--data: expected one of {', '.join(DATASETS)}, found 'cats'"):
        find_dataset("cats")


@pytest.mark.parametrize("name", ["dsprites", "shapes3d", "falcor3d", "isaac3d"])
def test_root_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"--data {name}: expected --root DIR, the folder of .+, found none"):
        find_dataset(name)
    with pytest.raises(UserError, match=r"--root .*nowhere: expected a folder with .+, found none"):
        find_dataset(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["sprites", "shapes"])
def test_root_is_not_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"--root: expected none with --data {name}, which is drawn, found "):
        find_dataset(name, tmp_path)


def test_missing_file_in_the_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{dsprites_module.FILE_NAME}: no such file"):
        find_dataset("dsprites", tmp_path)
