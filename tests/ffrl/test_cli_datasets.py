"""Every data set through the command line: train two iterations, evaluate, draw; and several runs summed up."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ffrl.cli import main
from ffrl.data import DATASETS, Factor, ImageFolder, catalogue, dsprites, shapes3d
from samples import dsprites_arrays, shapes3d_arrays, write_dsprites, write_png_folder, write_shapes3d

TINY = ["--iterations", "2", "--threads", "1", "--set", "latent_dim=4", "--set", "potential_width=5"]
TINY_MLP = [*TINY, "--set", "hidden=16,8", "--set", "batch_size=8", "--set", "random_frames=2"]
QUICK = ["--sequences", "3", "--samples", "1,2", "--bound-sequences", "1"]
SMALL_FOLDER = (Factor("light", 2, ordered=False), Factor("camera_x", 3), Factor("camera_y", 3))


def run(*arguments: object) -> int:
    """Run a command in this process; the exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def root_of(
    tmp_path: Path, mnist_root: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[str]]:
    """The --root option for small files of a data set; the folders of PNG files have fewer factors than the real."""

    def root(name: str) -> list[str]:
        if name == "mnist":
            return ["--root", str(mnist_root())]
        folder = tmp_path / name
        if name == "dsprites":
            folder.mkdir()
            write_dsprites(folder / dsprites.FILE_NAME, dsprites_arrays((1, 1, 6, 3, 6, 6)))
        elif name == "shapes3d":
            pytest.importorskip("h5py")
            folder.mkdir()
            write_shapes3d(folder / shapes3d.FILE_NAME, shapes3d_arrays((2, 2, 2, 8, 1, 8)))
        elif name in ("falcor3d", "isaac3d"):
            write_png_folder(folder, 18, 16)
            entry = catalogue._ENTRIES[name]
            small = replace(
                entry,
                moving=("camera_x", "camera_y"),
                num_steps=2,
                load=lambda root: ImageFolder(name, root, SMALL_FOLDER),
            )
            monkeypatch.setitem(catalogue._ENTRIES, name, small)
        else:
            return []
        return ["--root", str(folder)]

    return root


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_trains_and_evaluates(name: str, tmp_path: Path, root_of: Callable[[str], list[str]]) -> None:
    out = tmp_path / "run"
    assert run("train", "--data", name, *root_of(name), "--out", out, *TINY_MLP) == 0
    assert run("evaluate", out, *QUICK) == 0
    result = json.loads((out / "evaluation.json").read_text())
    names = list(result["equivariance_error"])
    assert list(result["volume_change"]) == list(result["path_residual"]) == names and len(names) >= 2
    assert all(1 <= error["sequences"] <= 3 for error in result["equivariance_error"].values())
    assert [bound["samples"] for bound in result["log_likelihood"]] == [1, 2]
    for bound in result["log_likelihood"]:
        assert bound["per_frame"] < bound["cap_per_frame"] and bound["sequences"] == len(names)
    assert len(result["data_checksum"]) == 64 and result["data"] == name
    assert "torch" in result["evaluated_by"]["versions"] and "commit" in result
    assert run("traverse", out, "--sequences", "2") == 0
    with Image.open(out / "traversal" / f"{names[-1]}.gif") as animation:
        assert animation.n_frames >= 3


@pytest.mark.parametrize(("name", "autoencoder"), [("shapes3d", "conv"), ("falcor3d", "conv_large")])
def test_convolutions_infer_k_on_images_by_factors(
    name: str,
    autoencoder: str,
    tmp_path: Path,
    root_of: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ffrl.matching.DECIDING_SEQUENCES", 4)
    out = tmp_path / "run"
    settings = ["--set", f"autoencoder={autoencoder}", "--set", "conv_width=3", "--set", "batch_size=5"]
    settings += ["--set", "likelihood=normal", "--set", "density=exact", "--set", "prior=standard"]
    settings += ["--set", "random_frames=1", "--set", "substeps=2"]
    assert run("train", "--preset", "weak", "--data", name, *root_of(name), "--out", out, *TINY, *settings) == 0
    assert run("evaluate", out, *QUICK) == 0
    assert "q(k|x): accuracy" in capsys.readouterr().out
    result = json.loads((out / "evaluation.json").read_text())
    assert 0 <= result["inferred_k"]["accuracy"] <= 1
    assert {bound["likelihood"] for bound in result["log_likelihood"]} == {"normal"}
    pixels = 3 * (64 * 64 if name == "shapes3d" else 16 * 16)
    assert result["log_likelihood"][0]["cap_per_frame"] == pytest.approx(-0.918938533 * pixels)


def test_disentanglement_of_images_by_factors(
    tmp_path: Path, root_of: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run("train", "--data", "falcor3d", *root_of("falcor3d"), "--out", out, *TINY_MLP) == 0
    assert run("evaluate", out, *QUICK, "--disentanglement") == 0
    printed = capsys.readouterr().out
    for score in ("DCI disentanglement", "DCI completeness", "DCI informativeness", "MIG", "SAP", "FactorVAE"):
        assert score in printed
    result = json.loads((out / "evaluation.json").read_text())["disentanglement"]
    assert result["factors"] == ["light", "camera_x", "camera_y"]
    # 18 images that all differ: a classifier that has seen each of them many times knows them.
    assert result["dci"]["informativeness"] == pytest.approx(1, abs=0.02)
    assert result["dci"]["guessing"] < 0.6


def test_codes_of_one_dimension_are_refused_before_anything_is_measured(
    tmp_path: Path, root_of: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "run", [*TINY_MLP, "--set", "latent_dim=1"]
    assert run("train", "--data", "falcor3d", *root_of("falcor3d"), "--out", out, *settings) == 0
    capsys.readouterr()
    assert run("evaluate", out, *QUICK, "--disentanglement") == 2
    printed = capsys.readouterr()
    assert printed.err == "ffrl: --disentanglement: expected a latent_dim of at least 2, found 1\n"
    assert printed.out == "" and not (out / "evaluation.json").exists()


def test_several_runs_have_means_and_spreads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / f"seed{seed}" for seed in (0, 1)]
    for seed, out in enumerate(runs):
        assert run("train", "--out", out, "--seed", seed, *TINY_MLP) == 0
    assert run("evaluate", *runs, *QUICK) == 0
    assert "2 runs on digits" in capsys.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())
    flows = [json.loads((out / "evaluation.json").read_text())["equivariance_error"]["rotate"]["flow"] for out in runs]
    assert found["seeds"] == [0, 1]
    assert found["values"]["rotate: flow"]["mean"] == pytest.approx(sum(flows) / 2)
    assert found["values"]["rotate: flow"]["sd"] == pytest.approx(abs(flows[0] - flows[1]) / 2**0.5)
    other = tmp_path / "other"
    assert run("train", "--out", other, "--seed", "2", *TINY_MLP, "--set", "beta=2") == 0
    assert run("evaluate", runs[0], other, *QUICK) == 2
    assert "expected runs that differ in their seeds alone, found beta 1.0 and 2.0" in capsys.readouterr().err
    assert run("evaluate", runs[0], runs[0], *QUICK) == 2
    assert "expected each seed once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "cats"), "--data: expected one of digits, digits-validation, mnist, dsprites"),
        (("--data", "shapes3d"), "--data shapes3d: expected --root DIR, the folder of 3dshapes.h5, found none"),
        (("--data", "sprites", "--root", "."), "--root: expected none with --data sprites"),
        (
            ("--preset", "falcor3d-paper"),
            "autoencoder conv_large: expected square images whose side is a multiple of 16",
        ),
        (("--data", "shapes", "--preset", "mnist-paper"), "random_frames: expected at most 7, the steps of shapes"),
        (("--data", "shapes", "--set", "batch_size=4"), "batch_size: expected at least 5, a row for each"),
    ],
)
def test_user_errors_of_data_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--out", tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_user_errors_of_evaluate_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", "--out", out, *TINY_MLP) == 0
    for arguments, message in (
        (("--disentanglement",), "--disentanglement: expected a data set of images by their factors, found digits"),
        (("--samples", "8,1"), "--samples: expected increasing numbers from 1 on, found (8, 1)"),
        (("--samples", "many"), "--samples: expected whole numbers, like 1,8,64, found 'many'"),
        (("--summary", str(tmp_path / "s.json")), "--summary: expected several runs, found one"),
    ):
        capsys.readouterr()
        assert run("evaluate", out, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
