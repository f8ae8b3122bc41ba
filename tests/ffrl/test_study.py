"""The study: its variants, what is left to do in a run's folder, what is measured, and the tables."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from few import few
from ffrl.campaign.lock import sole_use
from ffrl.campaign.runs import Plan
from ffrl.cli import main
from ffrl.composition import composition
from ffrl.data import Digits, find_dataset
from ffrl.errors import UserError
from ffrl.files import read_json
from ffrl.run import RunConfig, load_flow
from ffrl.study.measures import FOLDS, OFF_GRID, ON_GRID, StudyMeasures, measure
from ffrl.study.results import as_markdown
from ffrl.study.runs import StudyRun
from ffrl.study.variants import Variant, all_variants, chosen
from ffrl.training.budget import Budget
from ffrl.training.checkpoint import Checkpoint, save_checkpoint

VARIANT = Variant("autonomous", 4, "x0")
MINUTES = 0.0002
CHECKSUM = find_dataset("digits").checksum()


def run(*arguments: object) -> int:
    """A command in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def study(out: Path, *arguments: object) -> int:
    return run("study", "--out", out, "--minutes", MINUTES, "--seeds", 1, "--sequences", 3, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one variant and one seed, by the command itself."""
    out = tmp_path_factory.mktemp("study")
    assert study(out, "--only", VARIANT.name) == 0
    return out


def test_variants_of_digits_and_of_images_by_factors(digits: Digits) -> None:
    variants = all_variants(few(digits))
    names = [variant.name for variant in variants]
    assert len(set(names)) == 5 * 2 * 2 and "velocity-4-random" in names and "clocked-1-x0" in names
    presets = [variant.preset for variant in variants]
    assert len({str(preset) for preset in presets}) == len(presets)
    by_name = dict(zip(names, presets, strict=True))
    assert by_name["random-clock-1-x0"].random_clock and by_name["random-clock-1-x0"].random_start == 0
    assert by_name["separable-4-random"].substeps == 4 and by_name["separable-4-random"].has_equation
    assert not by_name["autonomous-1-random"].has_equation and by_name["velocity-1-x0"].flow == "velocity"
    assert [variant.name for variant in all_variants(find_dataset("sprites"))][:2] == ["clocked-1", "clocked-4"]


def test_a_choice_of_variants(digits: Digits) -> None:
    variants = all_variants(few(digits))
    assert chosen(variants, None) == variants
    names = [variant.name for variant in chosen(variants, "clocked-4-x0,velocity")]
    assert names == ["clocked-4-x0", "velocity-1-x0", "velocity-1-random", "velocity-4-x0", "velocity-4-random"]
    with pytest.raises(UserError, match=r"--only: expected flows \(clocked, .*\) or variants .* found \['clock'\]"):
        chosen(variants, "velocity,clock")


def test_what_is_left_to_do(tmp_path: Path, finished: Path) -> None:
    plan = Plan(tmp_path, Budget(minutes=2.0, processor_time=True), "digits", None, CHECKSUM, 50)
    new = StudyRun(plan, 7, VARIANT)
    assert new.folder == tmp_path / "autonomous-4-x0" / "seed7"
    command = new.next_command()
    assert command is not None and command[: len(command) - 2] == [
        sys.executable, "-P", "-m", "ffrl", "train", "--out", str(new.folder), "--preset", "quickstart",
        "--data", "digits",
        "--set", "time_embedding=none", "--set", "hj_weight=0", "--set", "substeps=4", "--set", "random_start=0",
        "--minutes", "2.0", "--processor-time", "--seed", "7",
    ]  # fmt: skip
    done = StudyRun(Plan(finished, Budget(minutes=MINUTES), "digits", None, CHECKSUM, 3), 0, VARIANT)
    config = RunConfig.load(done.folder)
    replace(config, seed=7, budget=plan.budget).save(new.folder)
    new.require_ours()
    resume = [sys.executable, "-P", "-m", "ffrl", "train", "--resume", "--out", str(new.folder), "--threads", "1"]
    assert new.next_command() == resume
    save_checkpoint(new.folder, Checkpoint({}, 10, 119.0))
    assert new.next_command() == resume
    save_checkpoint(new.folder, Checkpoint({}, 11, 120.0))
    assert new.next_command() == [sys.executable, "-P", "-m", "ffrl.study.measures", str(new.folder), "50"]
    assert done.next_command() is None
    # Measured on fewer sequences than are now asked for.
    assert replace(done, plan=replace(done.plan, sequences=4)).next_command() is not None
    # Measured before it was trained anew.
    shutil.copytree(done.folder, tmp_path / VARIANT.name / "seed0")
    again = replace(done, plan=replace(done.plan, out=tmp_path))
    assert again.next_command() is None
    save_checkpoint(again.folder, Checkpoint({}, 10**6, 60 * MINUTES))
    command = again.next_command()
    assert command is not None and command[3] == "ffrl.study.measures"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data_checksum": "another"}, "other data"),
        ({"accumulate": 2}, "other batches or precision"),
        ({"precision": "bf16-mixed"}, "other batches or precision"),
        ({"seed": 7}, "other seed"),
    ],
)
def test_a_run_of_another_command_is_refused(
    tmp_path: Path, finished: Path, change: dict[str, Any], named: str
) -> None:
    of_this = StudyRun(Plan(tmp_path, Budget(minutes=MINUTES), "digits", None, CHECKSUM, 3), 0, VARIANT)
    config = RunConfig.load(finished / VARIANT.name / "seed0")
    config.save(of_this.folder)
    of_this.require_ours()
    replace(config, **change).save(of_this.folder)
    with pytest.raises(UserError, match=f"seed0: expected a run of this command, found {named}$"):
        of_this.require_ours()


def test_what_was_measured(finished: Path) -> None:
    folder = finished / VARIANT.name / "seed0"
    config = RunConfig.load(folder)
    data = config.load_data()
    model, iteration = load_flow(folder, config, data.format)
    found = StudyMeasures.load(folder)
    assert found is not None and found.iteration == iteration and found.seed == 0
    expected = composition(model, data, 4, 3)
    values = found.values
    assert list(values)[:4] == ["single", "scale + rotate", "scale + colour", "rotate + colour"]
    assert values["single"] == pytest.approx(fmean(error.ratio for error in expected.single.values()))
    for name, error in expected.superposition.values.items():
        assert values[name] == pytest.approx(error.ratio)
    switches, beyond = expected.switch.values.values(), expected.extrapolation.values.values()
    assert values["switch, clock running"] == pytest.approx(fmean(switch.running.ratio for switch in switches))
    assert values["switch, clock restarted"] == pytest.approx(fmean(switch.restarted.ratio for switch in switches))
    assert values["beyond T"] == pytest.approx(fmean(error.ratio for error in beyond))
    assert values["beyond T, reconstruction"] == pytest.approx(fmean(error.reconstruction_ratio for error in beyond))
    assert FOLDS in values and values["iterations"] == iteration
    assert set(found.missing) == {ON_GRID, OFF_GRID}
    assert not {ON_GRID, OFF_GRID} & set(values)


def test_a_velocity_has_neither_folds_nor_residuals(tmp_path: Path) -> None:
    tiny = ["--set", "hidden=16,8", "--set", "latent_dim=4", "--iterations", 2, "--set", "flow=velocity"]
    assert run("train", "--out", tmp_path, *tiny) == 0
    found = measure(tmp_path, 3)
    assert set(found.missing) == {FOLDS, ON_GRID, OFF_GRID} and not set(found.missing) & set(found.values)


def test_the_same_command_does_nothing_twice_and_fills_a_page(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = finished / VARIANT.name / "seed0", tmp_path / "page.md"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    page.write_text("above\n<!-- study -->\nold\n<!-- end of study -->\nbelow\n")
    assert study(finished, "--only", VARIANT.name, "--docs", page) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert f"1/1  {VARIANT.name}, seed 0: " in capsys.readouterr().out
    table = (finished / "study.md").read_text()
    assert page.read_text() == f"above\n<!-- study -->\n{table}<!-- end of study -->\nbelow\n"
    assert table == as_markdown(read_json(finished / "study.json"))
    assert "| autonomous | 4 | x0 | " in table and "one seed, no spread is known" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", 1), "found other --minutes"),
        (("--processor-time",), "found other --minutes"),
        (("--minutes", 0), "--minutes: expected a positive number, found 0.0"),
        (("--only", "clock"), "--only: expected flows"),
        (("--data", "digit"), "--data: expected"),
        (("--docs", "nowhere.md"), "--docs nowhere.md: expected a page, found no such file"),
        (("--docs", __file__), "expected the lines <!-- study --> and <!-- end of study -->"),
    ],
)
def test_user_errors_are_one_line_and_code_2(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert study(finished, "--only", VARIANT.name, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_two_studies_never_share_a_folder(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_use(finished, print):
        assert study(finished, "--only", VARIANT.name) == 2
    assert "expected no other command at work in it" in capsys.readouterr().err


def test_tables_by_hand() -> None:
    def variant(flow: str, seeds: list[int], values: dict[str, tuple[float, float | None]]) -> dict[str, Any]:
        spreads = {name: {"mean": mean, "sd": sd} for name, (mean, sd) in values.items()}
        runs = {str(seed): {"versions": {"torch": "2.9"}} for seed in seeds}
        return {"flow": flow, "substeps": 1, "start": "x0", "seeds": seeds, "values": spreads, "runs": runs}

    clocked = {"single": (0.4554, 0.0123), FOLDS: (0.777, 0.01), ON_GRID: (0.0039, 0.0), "iterations": (8123.4, 12.0)}
    found = {
        "processor": "A processor",
        "minutes": 2.5,
        "processor_time": True,
        "data": "digits",
        "sequences": 1000,
        "variants": {
            "clocked-1-x0": variant("clocked", [0, 1, 2], clocked),
            "velocity-1-x0": variant("velocity", [0], {"single": (0.36, None), "iterations": (9000.0, None)}),
            "separable-1-x0": variant("separable", [], {}),
        },
        "failed": {"separable-1-x0, seed 0": "no loss"},
    }
    lines = as_markdown(found).splitlines()
    assert lines[0].startswith(
        "A processor, one thread, 2.5 minutes of processor time of training a run; torch 2.9; digits"
    )
    assert lines[2:6] == [
        "| flow | sub-steps | start | single |",
        "|---|---|---|---|",
        "| clocked | 1 | x0 | 0.455 ± 0.012 |",
        "| velocity (seeds 0) | 1 | x0 | 0.360 |",
    ]
    assert lines[7:11] == [
        f"| flow | sub-steps | start | {FOLDS} | {ON_GRID} | iterations |",
        "|---|---|---|---|---|---|",
        "| clocked | 1 | x0 | 77.7 ± 1.0 % | 0.0039 ± 0.0000 | 8,123 ± 12 |",
        "| velocity (seeds 0) | 1 | x0 | – | – | 9,000 |",
    ]
    assert lines[12:] == ["Failed:", "", "- separable-1-x0, seed 0: no loss"]


def test_a_study_without_results_says_so() -> None:
    assert as_markdown({"variants": {}}) == "Nothing is measured yet.\n"
