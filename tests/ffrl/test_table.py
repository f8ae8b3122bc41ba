"""The table: its rows, the command with its files, what a kill leaves, and the tables by hand."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from few import few
from ffrl.campaign.runs import Plan
from ffrl.cli import main
from ffrl.data import DATASETS, Digits, find_dataset
from ffrl.errors import UserError
from ffrl.files import read_json
from ffrl.presets import find_preset
from ffrl.run import RunConfig
from ffrl.table.chart import chart
from ffrl.table.markdown import as_markdown
from ffrl.table.measures import BOUND, RATIO, SECONDS, TableMeasures
from ffrl.table.results import as_csv
from ffrl.table.rows import ROWS, base_of, chosen
from ffrl.table.runs import TableRun
from ffrl.training.budget import Budget

ARGUMENTS = ("--iterations", "40", "--seeds", "1", "--sequences", "3", "--models", "vae,ffrl", "--jobs", "2")


def run(*arguments: object) -> int:
    """A command in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two systems and one seed, by the command itself."""
    out = tmp_path_factory.mktemp("table")
    assert run("table", "--out", out, *ARGUMENTS) == 0
    return out


def test_rows_are_systems_on_the_preset_of_the_data(digits: Digits) -> None:
    assert [row.name for row in ROWS] == [
        "vae", "beta-vae", "factor-vae", "slow-vae", "tvae", "poflow", "ffrl", "ffrl-weak",
    ]  # fmt: skip
    assert all(base_of(data) for data in DATASETS)
    for data in (few(digits), find_dataset("sprites"), find_dataset("shapes")):
        base = base_of("digits" if isinstance(data, type(few(digits))) else data.name)
        presets = [row.preset(base) for row in ROWS]
        assert len({str(preset) for preset in presets}) == len(ROWS)
        common = ("latent_dim", "hidden", "autoencoder", "batch_size", "learning_rate", "schedule", "ema_decay")
        for preset in presets:
            preset.require_fit(data)
            assert all(getattr(preset, name) == getattr(find_preset(base), name) for name in common)


def test_a_choice_of_rows() -> None:
    assert chosen(None) == list(ROWS)
    assert [row.name for row in chosen("tvae,vae")] == ["vae", "tvae"]
    with pytest.raises(UserError, match=r"--models: expected some of vae,beta-vae,.*, found tva,x"):
        chosen("tva,vae,x")


def test_the_command_of_a_run(tmp_path: Path) -> None:
    plan = Plan(tmp_path, Budget(iterations=7), "sprites", None, "", 50)
    new = TableRun(plan, 3, chosen("beta-vae")[0])
    assert new.folder == tmp_path / "beta-vae" / "seed3" and new.name == "beta-vae, seed 3"
    assert new.next_command() == [
        sys.executable, "-P", "-m", "ffrl", "train", "--out", str(new.folder), "--preset", "sprites", "--data",
        "sprites", "--set", "system=vae", "--set", "beta=4", "--iterations", "7", "--seed", "3", "--threads", "1",
    ]  # fmt: skip


def test_what_was_written(finished: Path) -> None:
    found = read_json(finished / "table.json")
    assert list(found["systems"]) == ["vae", "ffrl"] and found["failed"] == {}
    for name, system in found["systems"].items():
        measures = TableMeasures.load(finished / name / "seed0")
        assert measures is not None and measures.iteration == 40 and measures.asked == 3
        assert RunConfig.load(finished / name / "seed0").budget == Budget(iterations=40)
        assert system["seeds"] == [0] and set(system["values"]) == set(measures.values)
        for quantity, value in measures.values.items():
            assert system["values"][quantity] == {"mean": value, "sd": None}
        assert measures.values[BOUND] < measures.bound["cap_per_frame"] < 0 < measures.values[SECONDS]
    assert found["systems"]["vae"]["sees"] is None and "scale: own" not in found["systems"]["vae"]["values"]
    assert found["systems"]["ffrl"]["sees"] == "x_0 and k" and "scale: own" in found["systems"]["ffrl"]["values"]
    assert found["systems"]["vae"]["missing"] == {"disentanglement": "digits is no data set of images by their factors"}
    assert (finished / "table.md").read_text() == as_markdown(found)
    assert (finished / "table.csv").read_text() == as_csv(found)
    assert (finished / "table.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_does_nothing_twice_and_fills_a_page(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [path for name in ("vae", "ffrl") for path in (finished / name / "seed0").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in runs}
    page = tmp_path / "table.md"
    page.write_text("above\n<!-- table of digits -->\nold\n<!-- end of table of digits -->\nbelow\n")
    assert run("table", "--out", finished, *ARGUMENTS, "--docs", page) == 0
    assert {path: path.stat().st_mtime_ns for path in runs} == before
    assert "2/2  ffrl, seed 0: 40 iterations, error / decode(z_0) " in capsys.readouterr().out
    text, folder = page.read_text(), tmp_path / "table"
    assert text.startswith("above\n<!-- table of digits -->\n![errors of the systems on digits](table/digits.png)\n\n")
    assert (finished / "table.md").read_text() in text and text.endswith("<!-- end of table of digits -->\nbelow\n")
    for ending in ("json", "csv", "png"):
        assert (folder / f"digits.{ending}").read_bytes() == (finished / f"table.{ending}").read_bytes()


def test_a_table_that_was_killed_at_random_moments_ends_up_the_same(finished: Path, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--models", "ffrl")
    command = [sys.executable, "-P", "-m", "ffrl", "table", "--out", str(tmp_path), *arguments]
    moments = []
    for with_what in (signal.SIGTERM, signal.SIGKILL):
        (tmp_path / ".lock").unlink(missing_ok=True)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            while not (tmp_path / ".lock").exists() and process.poll() is None:
                time.sleep(0.05)
            moments.append(random.uniform(0, 6))
            time.sleep(moments[-1])
            # As when the machine loses its power: the command and its runs.
            for child in children(process.pid) if with_what == signal.SIGKILL else []:
                os.kill(child, signal.SIGKILL)
            process.send_signal(with_what)
    assert run("table", "--out", tmp_path, *arguments) == 0
    assert comparable(tmp_path)["ffrl"] == comparable(finished)["ffrl"], f"killed after {moments} seconds"


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def comparable(out: Path) -> dict[str, Any]:
    """The numbers of a table but for the seconds, which no clock measures twice alike."""
    systems = read_json(out / "table.json")["systems"]
    for system in systems.values():
        (only,) = system.pop("runs").values()
        system["errors"], system["bound"] = only["errors"], only["bound"]
        del system["values"][SECONDS]
    return systems


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--iterations", 41), "found other --iterations"),
        (("--seeds", 0), "Invalid value for '--seeds'"),
        (("--models", "vae,clock"), "--models: expected some of vae,"),
        (("--minutes", 1), "--iterations and --minutes: expected one of the two, found both"),
        (("--processor-time",), "--processor-time: expected --minutes with it, found none"),
        (("--data", "digit"), "--data: expected"),
        (("--docs", "nowhere.md"), "--docs nowhere.md: expected a page, found no such file"),
        (("--docs", __file__), "expected the lines <!-- table of digits --> and <!-- end of table of digits -->"),
    ],
)
def test_user_errors_are_one_line_and_code_2(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert run("table", "--out", finished, *ARGUMENTS, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_page_has_an_ending(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page"
    page.write_text("<!-- table of digits -->\n<!-- end of table of digits -->\n")
    assert run("table", "--out", finished, *ARGUMENTS, "--docs", page) == 2
    assert "page: expected a name with an ending, as table.md, found none" in capsys.readouterr().err


def by_hand() -> dict[str, Any]:
    """A table of two seeds of one system, one of another, and none of a third."""

    def spread(mean: float, sd: float | None) -> dict[str, float | None]:
        return {"mean": mean, "sd": sd}

    def values(sd: float | None, own: bool) -> dict[str, Any]:
        found = {
            "a: error": spread(400.4, sd), "a: ratio": spread(0.4, sd), "a: constant": spread(600, sd),
            "a: affine": spread(500, sd), "a: standing_still": spread(1000, sd),
            "a: pixel_identity": spread(1100, sd and 0.0), "a: black": spread(800, sd and 0.0),
            "a: reconstruction": spread(1300, sd), RATIO: spread(0.4, sd), "least error / pixels": spread(0.5, sd),
            BOUND: spread(-1234.56, sd), "iterations": spread(4321, sd), SECONDS: spread(300.2, sd),
        }  # fmt: skip
        return {**found, "a: own": spread(400.4, sd), "accuracy of q(k|x)": spread(1, sd)} if own else found

    def one(seed: int, counted: str, system: dict[str, Any]) -> dict[str, Any]:
        bound = {"samples": 64, "likelihood": "normal", "cap_per_frame": -1000.0, "sequences": 20, "frames": 3}
        numbers = {name: x["mean"] + seed for name, x in system.items()}
        return {
            "seed": seed, "values": numbers, "bound": bound, "errors": {"a": {"counted": counted}},
            "versions": {"torch": "2.9"},
        }  # fmt: skip

    flow, vae = values(0.05, True), values(None, False)
    return {
        "budget": {"minutes": 5.0, "iterations": None, "processor_time": True},
        "data": "sprites", "preset": "sprites", "transformations": ["a"], "steps": 2, "sequences": 1000,
        "processor": "A processor", "failed": {"tvae, seed 0": "no loss"},
        "systems": {
            "vae": {
                "seeds": [1], "values": vae, "supervision": "none", "sees": None, "parameters": 12345,
                "runs": {"v": one(1, "affine", vae)},
            },
            "ffrl": {
                "seeds": [0, 1], "values": flow, "supervision": "sequences and k", "sees": "x_0 and k",
                "parameters": 23456, "runs": {"f": one(0, "own", flow), "g": one(1, "own", flow)},
            },
            "tvae": {"seeds": [], "values": {}, "runs": {}},
        },
    }  # fmt: skip


def test_markdown_by_hand() -> None:
    assert as_markdown(by_hand()).splitlines() == [
        "A processor, one thread, 5 minutes of processor time of training a run; torch 2.9; sprites, preset sprites, "
        "up to 1,000 held-out sequences of each transformation; mean ± standard deviation of 2 seeds.",
        "",
        "| system | told in training | sees to predict | a | mean | best / pixels |",
        "|---|---|---|---|---|---|",
        "| vae (seed 1) | none | x_0 and k (fitted) | 0.400 | 0.400 | 0.500 |",
        "| ffrl | sequences and k | x_0 and k | 0.400 ± 0.050 | 0.400 ± 0.050 | 0.500 ± 0.050 |",
        "",
        "**a**, L1 error of t = 1…2: pixel identity 1,100, black image 800.",
        "",
        "| system | error | own transition | constant step | affine map | decode(z_0) | decode(code of x_t) | counts |",
        "|---|---|---|---|---|---|---|---|",
        "| vae (seed 1) | 400 | – | 600 | 500 | 1,000 | 1,300 | affine |",
        "| ffrl | 400 ± 0 | 400 ± 0 | 600 ± 0 | 500 ± 0 | 1,000 ± 0 | 1,300 ± 0 | own |",
        "",
        "The joint bound of log p(x_0…x_2 | k) a frame, normal, 64 samples, 20 sequences, of which no "
        "model exceeds -1000.0.",
        "",
        r"| system | joint bound a frame | accuracy of q(k\|x) | iterations | training seconds | parameters |",
        "|---|---|---|---|---|---|",
        "| vae (seed 1) | -1,234.6 | – | 4,321 | 300 | 12,345 |",
        "| ffrl | -1,234.6 ± 0.1 | 1.000 ± 0.050 | 4,321 ± 0 | 300 ± 0 | 23,456 |",
        "",
        "Failed:",
        "",
        "- tvae, seed 0: no loss",
    ]


def test_rows_of_other_seeds_are_marked() -> None:
    table = by_hand()
    table["systems"]["vae"]["seeds"] = [0, 2]
    lines = as_markdown(table).splitlines()
    assert "of 3 seeds" in lines[0]
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| vae (seeds 0, 2)", "| ffrl (seeds 0, 1)"]


def test_csv_by_hand() -> None:
    lines = list(csv.DictReader(as_csv(by_hand()).splitlines()))
    assert len(lines) == 13 + 15
    assert lines[0] == {
        "system": "vae", "quantity": "a: error", "mean": "400.4", "sd": "", "seed 0": "", "seed 1": "401.4",
    }  # fmt: skip
    assert lines[13] == {
        "system": "ffrl", "quantity": "a: error", "mean": "400.4", "sd": "0.05", "seed 0": "400.4", "seed 1": "401.4",
    }  # fmt: skip


def test_nothing_measured_yet() -> None:
    empty = {**by_hand(), "systems": {"vae": {"seeds": [], "values": {}, "runs": {}}}}
    assert as_markdown(empty) == "Nothing is measured yet.\n" and chart(empty) is None
    assert as_csv(empty) == "system,quantity,mean,sd\n"
