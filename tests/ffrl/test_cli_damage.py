"""Damaged run folders: every command names what is wrong in one line, and writes nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ffrl.cli import main

TINY = [
    "--iterations", "3", "--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "potential_width=5",
    "--set", "batch_size=6", "--threads", "1",
]  # fmt: skip
Change = Callable[[Any], object]


def run(*arguments: object) -> int:
    """Run a command in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", "--out", out, *TINY) == 0
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refused(folder: Path, message: str, capsys: pytest.CaptureFixture[str], *commands: str) -> None:
    """The commands end with one line that has the message, and leave the files as they were."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = {
        "evaluate": ("evaluate", folder, "--sequences", 2, "--samples", 1, "--bound-sequences", 1),
        "resume": ("train", "--resume", "--out", folder),
        "traverse": ("traverse", folder, "--sequences", 1),
        "experiment": ("experiment", "evolution", folder, "--sequences", 1),
    }
    for command in commands:
        capsys.readouterr()
        assert run(*arguments[command]) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("ffrl: ") and message in error and len(error.splitlines()) == 1, error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def change_json(path: Path, change: Change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_tensors(run: Path, change: Change) -> None:
    """In a checkpoint whose checksum is right."""
    (path,) = run.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    change_json(run / "checkpoint.json", lambda index: index.update(sha256=digest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("seed"), "expected the names of RunConfig, found unknown [], missing ['seed']"),
        (lambda c: c.update(dream=1), "expected the names of RunConfig, found unknown ['dream'], missing []"),
        (lambda c: c.update(seed="x"), "seed: expected int, found 'x'"),
        (lambda c: c.update(seed=-1), "seed: expected at least 0, found -1"),
        (lambda c: c.update(seed=2**70), f"seed: expected at most 4294967295, found {2**70}"),
        (lambda c: c["preset"].update(beta=10**400), "beta: expected a finite number, found 1000000"),
        (lambda c: c.update(data=["digits"]), "data: expected str, found ['digits']"),
        (lambda c: c.update(data="cats"), "--data: expected one of digits"),
        (lambda c: c.update(root=5), "root: expected str | None, found 5"),
        (lambda c: c.update(preset=5), "preset: expected"),
        (lambda c: c.update(budget={}), "expected the names of Budget, found unknown [], missing ['iterations'"),
        (lambda c: c["budget"].update(iterations="x"), "iterations: expected int | None, found 'x'"),
        (lambda c: c.update(accumulate=0), "accumulate: expected at least 1, found 0"),
        (lambda c: c.update(versions={"torch": 2}), "versions: expected dict[str, str], found {'torch': 2}"),
        (lambda c: c["preset"].update(latent_dim=4.5), "latent_dim: expected int, found 4.5"),
        (lambda c: c["preset"].update(random_clock=1), "random_clock: expected bool, found 1"),
        (lambda c: c["preset"].update(hidden=["x"]), "hidden: expected tuple[int, ...], found ['x']"),
        (lambda c: c["preset"].update(beta=float("nan")), "beta: expected a finite number, found nan"),
        (lambda c: c["preset"].update(flow=[1]), "flow: expected potential or velocity, found [1]"),
        (lambda c: c["preset"].update(latent_dim=5), "expected a checkpoint of the run's settings, (8, 5) for "),
        (lambda c: c["preset"].update(flow="velocity"), "expected a checkpoint of the run's settings, "),
    ],
)
def test_a_changed_config(copy: Path, change: Change, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(copy / "config.json", change)
    refused(copy, message, capsys, "evaluate", "resume")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(file=5), "file: expected the name of a file beside it, found 5"),
        (lambda i: i.update(file="../x"), "file: expected the name of a file beside it, found '../x'"),
        (lambda i: i.update(file="x"), "expected the tensors that checkpoint.json names, found no such file"),
        (lambda i: i.update(iteration="x"), "iteration: expected a whole number from 0 on, found 'x'"),
        (lambda i: i.update(seconds=float("nan")), "seconds: expected a number from 0 on, found nan"),
        (lambda i: i.update(seconds=10**400), "seconds: expected a number from 0 on, found 1000000"),
        (lambda i: i.update(format=None), "expected a checkpoint of format 1, found format None"),
    ],
)
def test_a_changed_index(copy: Path, change: Change, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(copy / "checkpoint.json", change)
    refused(copy, message, capsys, "evaluate", "resume", "traverse", "experiment")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_what_is_no_json(copy: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("checkpoint.json", "config.json"):
        (copy / name).write_bytes(content)
        refused(copy, f"{name}: expected JSON, found something else", capsys, "evaluate", "resume")


def _drop(part: str) -> Change:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(part)]:
            del tensors[name]

    return drop


@pytest.mark.parametrize(
    ("change", "message", "commands"),
    [
        (_drop("average"), "expected a checkpoint of the run's settings, (", ("evaluate", "resume")),
        (_drop("model"), "expected a checkpoint of the run's settings, (", ("resume",)),
        (_drop("sampler"), "found other states of the sampler or the optimizer", ("resume",)),
        (lambda t: t.update({"optimizer/99/step": torch.zeros(())}), "found other states", ("resume",)),
        (lambda t: t.update({"optimizer/0/exp_avg": torch.zeros(3)}), "found shape (3,)", ("resume",)),
    ],
)
def test_other_tensors(
    copy: Path, change: Change, message: str, commands: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    change_tensors(copy, change)
    refused(copy, message, capsys, *commands)


def test_weights_that_are_not_numbers(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if name.startswith("average") and value.is_floating_point():
                value.fill_(float("nan"))

    change_tensors(copy, spoil)
    refused(copy, "expected finite weights, found NaN or infinity in ", capsys, "evaluate", "traverse", "experiment")


def test_a_flow_that_diverged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def enlarge(tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if name.startswith("average") and value.is_floating_point():
                value.fill_(1e20)

    change_tensors(copy, enlarge)
    message = "expected a flow that stays finite, found NaN or infinity along scale from a black image"
    refused(copy, message, capsys, "evaluate", "traverse", "experiment")


@pytest.mark.parametrize("first", [b"x", b"\xff"])
def test_a_log_of_something_else(copy: Path, first: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    header, row, *_ = (copy / "log.csv").read_bytes().splitlines()
    (copy / "log.csv").write_bytes(b"\n".join([header, first + row, b""]))
    refused(copy, "log.csv: expected ", capsys, "resume")


def test_what_runs_are_summed_up_is_looked_at_first(
    trained: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_json(copy / "config.json", lambda config: config["preset"].update(beta=2.0))
    for other, message in (
        (copy, "expected runs that differ in their seeds alone, found beta 1.0 and 2.0"),
        (trained, "expected each seed once, found seed 0 2 times"),
        (copy.parent / "nowhere", "expected a run with a config.json, found none"),
    ):
        capsys.readouterr()
        assert run("evaluate", trained, other) == 2
        assert message in capsys.readouterr().err
        assert not (trained / "evaluation.json").exists()
    assert run("evaluate", trained, copy, "--summary", copy) == 2
    assert "expected a file, found a folder" in capsys.readouterr().err
    assert run("evaluate", trained, "--samples", "100000000000000000000") == 2
    assert "--samples: expected at most 1,000,000, found 1" in capsys.readouterr().err


def test_a_run_that_was_stopped_is_not_summed_up(trained: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(copy / "config.json", lambda config: config.update(seed=1))
    change_json(copy / "checkpoint.json", lambda index: index.update(iteration=1))
    assert run("evaluate", trained, copy) == 2
    assert "expected several runs that have ended, found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("ffrl.bounds.sequence_bounds", ("evaluate", "--sequences", "2")),
        ("os.replace", ("evaluate", "--sequences", "2", "--samples", "1", "--bound-sequences", "1")),
        ("os.replace", ("experiment", "orthogonality", "--sequences", "1")),
        ("PIL.Image.Image.save", ("traverse", "--sequences", "1")),
    ],
)
def test_ctrl_c_leaves_whole_files_alone(
    copy: Path, where: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives where the results are computed, written, or get their names."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert run(*command, copy) == 130
    new = {path.name for path in copy.rglob("*") if path.is_file()} - {"config.json", "checkpoint.json", "log.csv"}
    assert not [name for name in new if not name.endswith((".safetensors", ".png", ".gif")) or name.startswith(".")]
