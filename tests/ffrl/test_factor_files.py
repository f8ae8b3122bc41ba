"""The file formats of dSprites, Falcor3D and Isaac3D: what is read back, and what is wrong with a file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ffrl.data import DSprites, Factor, ImageFolder, load_falcor3d, load_isaac3d
from ffrl.data import dsprites as dsprites_module
from ffrl.data.factors import states_of
from ffrl.errors import UserError
from samples import DSPRITES_SIZES, binary_pattern, dsprites_arrays, row_pattern, write_dsprites, write_png_folder

FOLDER_FACTORS = (Factor("shape", 2), Factor("x", 3), Factor("y", 2))


def scattered(count: int) -> torch.Tensor:
    """Row numbers out of order, with repeats."""
    return torch.tensor([count - 1, 0, 5, 4, 5, count // 2])


class TestDSprites:
    def test_images_are_those_of_their_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dsprites_module, "_ROWS_AT_ONCE", 50)  # so that the last piece is a short one
        data = DSprites(write_dsprites(tmp_path / "sprites.npz"))
        rows = scattered(len(data))
        expected = torch.stack([torch.from_numpy(binary_pattern(int(row))) for row in rows]).unsqueeze(1) * 255
        assert data.sizes == DSPRITES_SIZES
        assert torch.equal(data.images(states_of(rows, data.sizes)), expected)

    def test_last_orientation_repeats_the_first(self, tmp_path: Path) -> None:
        orientation = DSprites(write_dsprites(tmp_path / "sprites.npz")).factors[3]
        assert (orientation.size, orientation.cyclic, orientation.distinct) == (4, True, 3)

    def test_orientations_short_of_a_full_turn_all_differ(self, tmp_path: Path) -> None:
        arrays = dsprites_arrays()
        arrays["latents_values"][:, 3] *= 0.75
        assert DSprites(write_dsprites(tmp_path / "sprites.npz", arrays)).factors[3].distinct == 4

    def test_checksum_is_that_of_the_file(self, tmp_path: Path) -> None:
        arrays = dsprites_arrays()
        one = DSprites(write_dsprites(tmp_path / "one.npz", arrays)).checksum()
        arrays["imgs"][3, 20, 20] ^= 1
        assert DSprites(write_dsprites(tmp_path / "two.npz", arrays)).checksum() != one

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"imgs": None}, "expected the arrays imgs, .*, found latents_classes, latents_values"),
            ({"latents_classes": None}, "expected the arrays imgs, .*, found imgs, latents_values"),
            ({"imgs": np.zeros((216, 32, 32), np.uint8)}, r"expected imgs uint8 \(216, 64, 64\).*\(216, 32, 32\)"),
            ({"imgs": np.zeros((216, 64, 64))}, r"expected imgs uint8 .*, found float64"),
            ({"imgs": np.full((216, 64, 64), 255, np.uint8)}, "expected imgs of 0 and 1, found 255"),
            ({"latents_classes": np.zeros((216, 5), np.int64)}, r"expected latents_classes int64 \(N, 6\), found .*5"),
            ({"latents_classes": np.zeros((216, 6))}, r"expected latents_classes int64 \(N, 6\), found float64"),
            ({"latents_classes": np.zeros((216, 6), np.int64)}, ".*every combination once, .*found 216 rows"),
            ({"latents_values": np.zeros((7, 6))}, "expected 216 rows of latents_values, found 7"),
            ({"latents_values": np.full((216, 6), None)}, "expected latents_values as a plain array"),
            ({"latents_values": np.append(np.zeros((215, 6)), [[np.nan] * 6], 0)}, "expected finite .*, found nan"),
            ({"imgs": np.full((216, 64, 64), None)}, "expected imgs uint8 .*, found object"),
        ],
    )
    def test_wrong_arrays_are_named(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        arrays = {**dsprites_arrays(), **changes}
        path = write_dsprites(tmp_path / "s.npz", {key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(UserError, match=rf"s\.npz: {message}"):
            DSprites(path)

    def test_rows_in_another_order_are_refused(self, tmp_path: Path) -> None:
        arrays = dsprites_arrays()
        arrays["latents_classes"] = arrays["latents_classes"][::-1]
        path = write_dsprites(tmp_path / "s.npz", arrays)
        with pytest.raises(UserError, match=r"s\.npz: .*last column changing fastest, found 216 rows in another order"):
            DSprites(path)

    def test_damaged_files_are_refused(self, tmp_path: Path) -> None:
        path = write_dsprites(tmp_path / "s.npz")
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(UserError, match=r"s\.npz: expected a whole npz file, found a damaged one"):
            DSprites(path)
        path.write_bytes(whole[:500] + bytes(1000) + whole[1500:])
        with pytest.raises(UserError, match=r"s\.npz: expected a whole npz file, found a damaged one"):
            DSprites(path)

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nothing\.npz: no such file"):
            DSprites(tmp_path / "nothing.npz")


class TestImageFolder:
    @pytest.mark.parametrize("side", [16, 128])
    def test_images_are_those_of_their_rows(self, tmp_path: Path, side: int) -> None:
        data = ImageFolder("small", write_png_folder(tmp_path / "set", 12, side), FOLDER_FACTORS)
        rows = scattered(12)
        expected = torch.stack([torch.from_numpy(row_pattern(int(row), side, 3)).permute(2, 0, 1) for row in rows])
        assert data.image_shape == (3, side, side)
        assert torch.equal(data.images(states_of(rows, data.sizes)), expected)

    def test_larger_images_are_averaged(self, tmp_path: Path) -> None:
        data = ImageFolder("small", write_png_folder(tmp_path / "set", 12, 256), FOLDER_FACTORS)
        pattern = torch.from_numpy(row_pattern(7, 256, 3)).permute(2, 0, 1).to(torch.float64)
        expected = pattern.reshape(3, 128, 2, 128, 2).mean(dim=(2, 4))
        found = data.images(states_of(torch.tensor([7]), data.sizes))[0]
        assert data.image_shape == (3, 128, 128)
        # Half a grey value of rounding in each of the two directions.
        assert (found - expected).abs().max() <= 1

    def test_checksum_is_that_of_all_files(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 12, 8)
        data = ImageFolder("small", root, FOLDER_FACTORS)
        before = data.checksum()
        (root / "000011.png").write_bytes((root / "000010.png").read_bytes())
        assert data.checksum() != before

    @pytest.mark.parametrize("load", [load_falcor3d, load_isaac3d])
    def test_published_sets_by_their_loaders(self, tmp_path: Path, load: Any) -> None:
        data = load(write_png_folder(tmp_path / "set", 12, 8), FOLDER_FACTORS)
        assert load.__name__ == f"load_{data.name}"
        assert len(data) == 12

    def test_published_sizes(self) -> None:
        falcor, isaac = load_falcor3d.__defaults__[0], load_isaac3d.__defaults__[0]
        assert math.prod(factor.size for factor in falcor) == 233_280
        assert math.prod(factor.size for factor in isaac) == 737_280

    def test_another_number_of_files_is_refused(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 11, 8)
        with pytest.raises(UserError, match=r"set: expected 12 PNG files \(small\), found 11"):
            ImageFolder("small", root, FOLDER_FACTORS)

    def test_missing_number_is_named(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 12, 8)
        (root / "000004.png").rename(root / "000012.png")
        with pytest.raises(UserError, match=r"000004\.png: no such file \(image 4 of 12\)"):
            ImageFolder("small", root, FOLDER_FACTORS)

    def test_file_that_vanished_is_named(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 12, 8)
        data = ImageFolder("small", root, FOLDER_FACTORS)
        (root / "000004.png").unlink()
        with pytest.raises(UserError, match=r"000004\.png: no such file"):
            data.images(states_of(torch.tensor([4]), data.sizes))

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 12, 64)
        data = ImageFolder("small", root, FOLDER_FACTORS)
        whole = (root / "000004.png").read_bytes()
        flipped = bytes([*whole[:60], whole[60] ^ 0xFF, *whole[61:]])
        for damaged in (b"not an image", whole[: len(whole) // 2], flipped, b""):
            (root / "000004.png").write_bytes(damaged)
            with pytest.raises(UserError, match=r"000004\.png: expected a whole PNG image, found a damaged one"):
                data.images(states_of(torch.tensor([4]), data.sizes))

    def test_image_of_another_size_is_named(self, tmp_path: Path) -> None:
        root = write_png_folder(tmp_path / "set", 12, 8)
        other = write_png_folder(tmp_path / "other", 1, 9)
        data = ImageFolder("small", root, FOLDER_FACTORS)
        (other / "000000.png").rename(root / "000004.png")
        with pytest.raises(UserError, match=r"000004\.png: expected 8x8 as the first image, found 9x9"):
            data.images(states_of(torch.tensor([4]), data.sizes))

    def test_oblong_images_are_refused(self, tmp_path: Path) -> None:
        from PIL import Image

        root = write_png_folder(tmp_path / "set", 12, 8)
        Image.new("RGB", (8, 6)).save(root / "000000.png")
        with pytest.raises(UserError, match=r"000000\.png: expected a square image, found 8x6"):
            ImageFolder("small", root, FOLDER_FACTORS)

    def test_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere: expected a folder of PNG files, found none"):
            ImageFolder("small", tmp_path / "nowhere", FOLDER_FACTORS)
