"""ffrl experiment on a tiny run: its numbers are those of the measures, its pictures show every step, its errors are
one line."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from ffrl import composition
from ffrl.cli import main
from ffrl.data import catalogue, find_dataset
from ffrl.evaluation import equivariance_errors
from ffrl.experiments import EXPERIMENTS, Subject
from ffrl.experiments.evolution import evolution
from ffrl.experiments.subject import MOST_SHOWN
from ffrl.models import FlowModel
from ffrl.orthogonality import pair_cosines, random_directions
from ffrl.report import write_report
from ffrl.round_trip import round_trip
from ffrl.source import source_commit

TINY = [
    "--iterations", "3", "--threads", "1", "--set", "latent_dim=4", "--set", "potential_width=5",
    "--set", "hidden=16,8", "--set", "batch_size=8", "--set", "random_frames=1",
]  # fmt: skip
SEQUENCES = 5


def run(*arguments: object) -> int:
    """Run a command in this process; the exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert run("train", "--out", out, "--seed", "3", *TINY, "--set", "substeps=2") == 0
    return out


@pytest.fixture(scope="module")
def subject(trained: Path) -> Subject:
    return Subject.load(trained, SEQUENCES)


@pytest.fixture(scope="module")
def results(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """The folder that each experiment wrote, and its JSON."""
    out = tmp_path_factory.mktemp("experiments")
    assert run("experiment", "all", trained, "--sequences", SEQUENCES, "--out", out, "--threads", "1") == 0
    return lambda name: (out / name, json.loads((out / name / f"{name}.json").read_text()))


def frames_of(path: Path) -> int:
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1)


def test_every_experiment_says_where_its_numbers_come_from(results: Callable[[str], tuple[Path, Any]]) -> None:
    for name in EXPERIMENTS:
        _, found = results(name)
        assert found["experiment"] == name and found["sequences"] == SEQUENCES and found["potentials"] == [0, 1, 2]
        assert (found["iteration"], found["seed"], found["data"]) == (3, 3, "digits")
        assert len(found["data_checksum"]) == 64
        assert found["evaluated_by"]["versions"]["torch"] == torch.__version__
        assert found["commit"] == found["evaluated_by"]["commit"] == source_commit()


def test_evolution(results: Callable[[str], tuple[Path, Any]], subject: Subject, tmp_path: Path) -> None:
    folder, found = results("evolution")
    expected = equivariance_errors(*subject.measured)
    for name, errors in found["errors_by_t"].items():
        assert all(len(values) == 9 for values in errors.values())
        for error, values in errors.items():
            assert sum(values[1:]) == pytest.approx(getattr(expected[name], error), rel=1e-6)
        assert errors["flow"][0] == pytest.approx(errors["standing_still"][0])
        assert errors["flow"][0] == pytest.approx(errors["reconstruction"][0])
        assert errors["pixel_identity"][0] == 0
    finer = composition.finer_steps(subject.model, subject.data, 2, SEQUENCES)
    assert found["finer"]["rotate"] == {**asdict(finer["rotate"]), "ratio": finer["rotate"].ratio}
    printed = io.StringIO()
    Console(file=printed, width=80).print(evolution(subject, tmp_path).tables[0])
    for name in ("scale", "rotate", "colour"):
        assert f"│{name:<6} │" in printed.getvalue()
        assert frames_of(folder / f"{name}.gif") == 9
        assert frames_of(folder / f"{name}.png") == frames_of(folder / f"{name}-errors.png") == 1


def test_superposition(results: Callable[[str], tuple[Path, Any]], subject: Subject) -> None:
    folder, found = results("superposition")
    expected = composition.superposition(*subject.measured)
    assert found["values"] == {name: composition.error_as_json(error) for name, error in expected.values.items()}
    assert list(found["values"]) == ["scale + rotate", "scale + colour", "rotate + colour"] and found["left_out"] == {}
    for stem in ("scale-and-rotate", "scale-and-colour", "rotate-and-colour"):
        assert frames_of(folder / f"{stem}.gif") == 9 and frames_of(folder / f"{stem}.png") == 1


def test_switching(results: Callable[[str], tuple[Path, Any]], subject: Subject) -> None:
    folder, found = results("switching")
    expected = composition.switches(*subject.measured)
    assert found["switched_at"] == 4 and len(found["running"]) == 6
    for name, switch in expected.values.items():
        assert found["running"][name] == composition.error_as_json(switch.running)
        assert found["restarted"][name] == composition.error_as_json(switch.restarted)
    assert len(list(folder.glob("*-then-*.gif"))) == 6 and frames_of(folder / "colour-then-scale.gif") == 9


def test_extrapolation(results: Callable[[str], tuple[Path, Any]], subject: Subject) -> None:
    folder, found = results("extrapolation")
    expected = composition.extrapolation(*subject.measured)
    assert found["values"] == {name: composition.error_as_json(error) for name, error in expected.values.items()}
    assert found["trained_to"] == 8 and found["unseen"] is None
    assert frames_of(folder / "scale-longer.gif") == 8 + 4 + 1


def test_extrapolation_to_unseen_images(
    trained: Path, subject: Subject, mnist_root: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = mnist_root(compressed=True)
    arguments = ("--root", root, "--out", tmp_path / "out", "--sequences", SEQUENCES)
    assert run("experiment", "extrapolation", trained, *arguments) == 0
    assert "Unseen data mnist" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "extrapolation.json").read_text())["unseen"]
    unseen = find_dataset("mnist", root)
    expected = equivariance_errors(subject.model, unseen, SEQUENCES)
    assert found["values"] == {name: composition.error_as_json(error) for name, error in expected.items()}
    assert (found["data"], found["data_checksum"]) == ("mnist", unseen.checksum())
    assert frames_of(tmp_path / "out" / "unseen" / "scale.gif") == 9


def test_orthogonality(results: Callable[[str], tuple[Path, Any]], subject: Subject) -> None:
    folder, found = results("orthogonality")
    gradients, displacements = pair_cosines(subject.model, subject.data, (0, 2), SEQUENCES)
    assert found["gradients"]["scale and colour"] == asdict(gradients)
    assert found["displacements"]["scale and colour"] == asdict(displacements)
    assert displacements.pairs == SEQUENCES and gradients.pairs == 2 * 8 * SEQUENCES
    assert found["random_directions"] == asdict(random_directions(4))
    assert frames_of(folder / "gradients.png") == frames_of(folder / "displacements.png") == 1


def test_inverse(results: Callable[[str], tuple[Path, Any]], subject: Subject) -> None:
    folder, found = results("inverse")
    (frames,) = subject.data.sequences("held_out", 1, SEQUENCES)
    trip = round_trip(subject.model, subject.codes(frames[0]), 1, 8)
    numbers = found["round_trips"]["rotate"]
    assert (numbers["sequences"], numbers["euler_steps"]) == (SEQUENCES, 16)
    assert numbers["returned"] == SEQUENCES and numbers["elsewhere"] == numbers["unsolved"] == 0
    assert numbers["latent_error_returned"] == trip.error.mean().item() < 1e-8
    assert numbers["latent_error_elsewhere"] is numbers["image_error_elsewhere"] is None
    assert numbers["latent_error_stepped"] == trip.stepped_error.mean().item() > 1e-6
    assert numbers["image_error_returned"] < 1e-3 < numbers["image_error_standing_still"]
    assert numbers["smallest_eigenvalue"] == trip.smallest.min().item() > 0
    with (folder / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * SEQUENCES and {row["outcome"] for row in rows} == {"returned"}
    row = next(row for row in rows if row["transformation"] == "rotate" and row["sequence"] == "3")
    assert float(row["latent_error"]) == trip.error[3].item() and row["unsolved_at_t"] == ""
    assert frames_of(folder / "rotate.gif") == 9 and frames_of(folder / "rotate.png") == 1


def test_an_inverse_that_does_not_exist_is_counted_and_marked(subject: Subject, tmp_path: Path) -> None:
    from ffrl.drawing.picture import ABSENT
    from ffrl.experiments.inverse import ELSEWHERE_COLOUR, FOLDS_COLOUR, inverse

    torch.manual_seed(1)
    model = FlowModel(replace(subject.config.preset, potential_width=16), subject.data.format).requires_grad_(False)
    # Codes far apart, some where a step folds and some where none does.
    model.autoencoder.encoder[-1].weight.mul_(20)
    model.potentials.theta.mul_(2.7)
    folding = dataclasses.replace(subject, model=model, sequences=24)
    findings = inverse(folding, tmp_path)
    numbers = findings.results["round_trips"]
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    for k, name in enumerate(folding.data.transformations):
        (frames,) = folding.data.sequences("held_out", k, 24)
        trip = round_trip(model, folding.codes(frames[0]), k, 8)
        mine = [row for row in rows if row["transformation"] == name]
        for outcome in ("returned", "elsewhere", "unsolved"):
            assert numbers[name][outcome] == sum(row["outcome"] == outcome for row in mine)
        assert numbers[name]["folding_sequences"] == int(trip.folding.sum())
        assert numbers[name]["folding_steps"] == int((trip.smallest <= 0).sum())
        for row, solved in zip(mine, trip.solved.tolist(), strict=True):
            assert (row["unsolved_at_t"] == "") == (row["latent_error"] != "") == solved
            assert solved or float(row["largest_residual"]) > 1e-12
    for outcome in ("unsolved", "elsewhere", "returned"):
        assert sum(found[outcome] for found in numbers.values()) > 0
    colours = set()
    for path in findings.pictures:
        if path.suffix == ".png":
            with Image.open(path) as image:
                colours |= {colour for _, colour in image.getcolors(2**24)}  # type: ignore[union-attr]
    assert {ELSEWHERE_COLOUR, FOLDS_COLOUR, ABSENT} <= colours


def test_all_is_written_into_the_run_and_the_report_shows_it(trained: Path, tmp_path: Path) -> None:
    assert run("experiment", "orthogonality", trained, "--sequences", 2) == 0
    assert (trained / "experiments" / "orthogonality" / "orthogonality.json").is_file()
    write_report([trained], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "random_directions" in page and "scale and rotate" in page


def test_pictures_show_few_sequences(subject: Subject) -> None:
    assert MOST_SHOWN == subject.shown < SEQUENCES
    assert dataclasses.replace(subject, sequences=2).shown == 2


def test_flows_that_were_named_by_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weakly supervised run whose potentials stand for other transformations: it is they that are followed."""
    monkeypatch.setattr("ffrl.matching.DECIDING_SEQUENCES", 4)
    assert run("train", "--preset", "weak", "--out", tmp_path, *TINY) == 0
    plain = Subject.load(tmp_path, 3)
    subject = dataclasses.replace(plain, potentials=(2, 0, 1))
    findings = EXPERIMENTS["superposition"](subject, tmp_path / "superposition")
    expected = composition.superposition(subject.model, subject.data, 3, (2, 0, 1))
    assert findings.results["values"]["scale + rotate"] == composition.error_as_json(expected.values["scale + rotate"])
    assert run("experiment", "evolution", tmp_path, "--sequences", 2) == 0
    found = json.loads((tmp_path / "experiments" / "evolution" / "evolution.json").read_text())
    assert found["potentials"] == list(plain.potentials)


def test_factor_sets_name_what_has_no_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--data", "sprites", "--out", tmp_path / "run", *TINY) == 0
    capsys.readouterr()
    assert run("experiment", "extrapolation", tmp_path / "run", "--sequences", 2) == 0
    assert "scale: left out. sprites: expected held-out" in capsys.readouterr().out.replace("\n", " ")
    folder = tmp_path / "run" / "experiments" / "extrapolation"
    found = json.loads((folder / "extrapolation.json").read_text())
    assert list(found["left_out"]) == ["scale"] and list(found["values"]) == ["orientation", "x", "y"]
    assert frames_of(folder / "orientation-longer.gif") == 5 + 2 + 1 and not (folder / "scale-longer.gif").exists()


def test_what_a_model_or_data_lack_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = replace(catalogue._ENTRIES["sprites"], moving=("x",), num_steps=1)
    monkeypatch.setitem(catalogue._ENTRIES, "sprites", short)
    out = tmp_path / "run"
    assert run("train", "--data", "sprites", "--out", out, *TINY, "--set", "flow=velocity") == 0
    for name, message in (
        ("inverse", "inverse: expected a flow of potentials, found another: a free velocity has no potential"),
        ("extrapolation", "sprites: expected at least 2 steps, to be halved, found 1"),
        ("switching", "sprites: expected several transformations to compose, found 1"),
        ("superposition", "sprites: expected several transformations to compose, found 1"),
        ("orthogonality", "sprites: expected several transformations to compose, found 1"),
    ):
        capsys.readouterr()
        assert run("experiment", name, out, "--sequences", 2) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
        assert not (out / "experiments").exists()
    assert run("experiment", "all", out, "--sequences", 2) == 0
    printed = capsys.readouterr().out
    assert printed.count("left out.") == 5
    assert [path.name for path in (out / "experiments").iterdir()] == ["evolution"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("dreams",),
            "NAME: expected one of evolution, switching, superposition, extrapolation, orthogonality, inverse",
        ),
        (("evolution", "--data", "sprites"), "--data: expected only with extrapolation or all, found with evolution"),
        (("inverse", "--root", "."), "--root: expected only with extrapolation or all, found with inverse"),
        (("extrapolation", "--data", "sprites"), "--data sprites: expected scale, rotate, colour in 8 steps"),
        (("extrapolation", "--data", "mnist"), "--data mnist: expected --root DIR"),
        (("extrapolation", "--data", "digits"), "--data digits: expected images that the run has not seen, found its"),
    ],
)
def test_user_errors_are_one_line(
    trained: Path, arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = arguments
    assert run("experiment", name, trained, *options, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_run_and_no_checkpoint(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("experiment", "evolution", tmp_path) == 2
    assert "expected a run with a config.json, found none" in capsys.readouterr().err
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    assert run("experiment", "evolution", tmp_path) == 2
    assert "expected a run with a checkpoint.json, found none" in capsys.readouterr().err
