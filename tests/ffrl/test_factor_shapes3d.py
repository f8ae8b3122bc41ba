"""The HDF5 file of 3D Shapes: what is read back, and what is wrong with a file."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ffrl.data import Shapes3D
from ffrl.data.factors import states_of
from ffrl.errors import UserError
from samples import SHAPES3D_SIZES, row_pattern, shapes3d_arrays, write_shapes3d

COUNT = 432


@pytest.fixture
def needs_h5py() -> Any:
    return pytest.importorskip("h5py")


@pytest.mark.usefixtures("needs_h5py")
class TestFile:
    def test_images_are_those_of_their_rows(self, tmp_path: Path) -> None:
        data = Shapes3D(write_shapes3d(tmp_path / "3dshapes.h5"))
        rows = torch.tensor([COUNT - 1, 0, 5, 4, 5, 200, 6])
        expected = torch.stack([torch.from_numpy(row_pattern(int(row), 64, 3)).permute(2, 0, 1) for row in rows])
        assert data.sizes == SHAPES3D_SIZES
        found = data.images(states_of(rows, data.sizes))
        assert torch.equal(found, expected)
        assert found.is_contiguous()

    def test_no_states_give_no_images(self, tmp_path: Path) -> None:
        data = Shapes3D(write_shapes3d(tmp_path / "3dshapes.h5"))
        assert data.images(torch.empty(0, 6, dtype=torch.int64)).shape == (0, 3, 64, 64)

    def test_hues_are_cyclic(self, tmp_path: Path) -> None:
        factors = Shapes3D(write_shapes3d(tmp_path / "3dshapes.h5")).factors
        assert [factor.cyclic for factor in factors] == [True, True, True, False, False, False]
        assert [factor.distinct for factor in factors] == list(SHAPES3D_SIZES)

    def test_hues_that_go_full_circle_repeat_the_first(self, tmp_path: Path) -> None:
        arrays = shapes3d_arrays()
        arrays["labels"][:, 2] *= 4 / 3
        assert Shapes3D(write_shapes3d(tmp_path / "3dshapes.h5", arrays)).factors[2].distinct == 3

    def test_checksum_is_that_of_the_file(self, tmp_path: Path) -> None:
        arrays = shapes3d_arrays()
        one = Shapes3D(write_shapes3d(tmp_path / "one.h5", arrays)).checksum()
        arrays["images"][3, 20, 20, 1] ^= 1
        assert Shapes3D(write_shapes3d(tmp_path / "two.h5", arrays)).checksum() != one

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"images": None}, "expected the data sets images and labels, found labels"),
            ({"labels": None}, "expected the data sets images and labels, found images"),
            ({"images": np.zeros((COUNT, 32, 32, 3), np.uint8)}, r"expected images uint8 .*\(432, 32, 32, 3\)"),
            ({"images": np.zeros((COUNT, 64, 64, 3), np.int16)}, "expected images uint8 .*, found int16"),
            ({"labels": np.zeros((COUNT, 5))}, r"expected labels float64 \(N, 6\), found float64 \(432, 5\)"),
            ({"labels": np.zeros((COUNT, 6), np.float32)}, r"expected labels float64 \(N, 6\), found float32"),
            ({"labels": np.zeros((COUNT, 6))}, r"every combination once, .*found 432 rows in another order"),
            ({"labels": shapes3d_arrays()["labels"][::-1]}, r"the last column changing fastest, found 432 rows"),
        ],
    )
    def test_wrong_data_sets_are_named(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        arrays = {**shapes3d_arrays(), **changes}
        path = write_shapes3d(tmp_path / "s.h5", {key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(UserError, match=rf"s\.h5: .*{message}"):
            Shapes3D(path)

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = write_shapes3d(tmp_path / "s.h5")
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(UserError, match=r"s\.h5: expected a whole HDF5 file, found something else"):
            Shapes3D(path)

    def test_images_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        path = write_shapes3d(tmp_path / "s.h5")
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[: middle - 20_000] + bytes(40_000) + whole[middle + 20_000 :])
        data = Shapes3D(path)
        with pytest.raises(UserError, match=r"s\.h5: expected to read images \d+ to \d+, failed"):
            data.images(states_of(torch.arange(COUNT), data.sizes))

    def test_labels_that_cannot_be_read_are_named(self, tmp_path: Path, needs_h5py: Any) -> None:
        path = write_shapes3d(tmp_path / "s.h5")
        with needs_h5py.File(path) as file:
            chunk = file["labels"].id.get_chunk_info(0)
        whole = path.read_bytes()
        end = chunk.byte_offset + chunk.size
        path.write_bytes(whole[: chunk.byte_offset] + bytes(chunk.size) + whole[end:])
        with pytest.raises(UserError, match=r"s\.h5: expected to read labels, failed"):
            Shapes3D(path)

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nothing\.h5: no such file"):
            Shapes3D(tmp_path / "nothing.h5")


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"--data shapes3d: expected the package h5py, found none"):
        Shapes3D(tmp_path / "3dshapes.h5")
