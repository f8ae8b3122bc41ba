"""A run's folder: files of others stay in it, and one command at a time trains there."""

import subprocess
import sys
from pathlib import Path

import pytest

from ffrl.cli import main
from ffrl.errors import UserError
from ffrl.training.lock import LOCK_NAME, lock, sole_training

TINY = [
    "--iterations", "4", "--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "potential_width=5",
    "--set", "batch_size=6", "--threads", "1",
]  # fmt: skip
DIVERGING = ["--set", "learning_rate=1e30", "--set", "warmup_iterations=0"]
RUN_FILES = ["checkpoint-00000004.safetensors", "checkpoint.json", "config.json", "log.csv"]


def train(*arguments: object) -> int:
    """Train in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main(["train", *map(str, arguments)])
    return int(end.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["log.csv", "checkpoint.json", "checkpoint-00000009.safetensors", "evaluation.json", "measures.json"]
)
def test_a_new_run_replaces_no_file(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert train("--out", tmp_path, *TINY) == 2
    error = capsys.readouterr().err
    assert error == f"ffrl: --out {tmp_path}: expected a folder without files of a run, found {name}\n"
    assert contents(tmp_path) == {name: b"x"}


def test_other_files_stay(tmp_path: Path) -> None:
    others = {"checkpoint-before-experiment.safetensors": b"w", "checkpoint-1.safetensors": b"v", "notes": b"x"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    assert train("--out", tmp_path, *TINY, *DIVERGING) == 2
    assert contents(tmp_path) == others
    assert train("--out", tmp_path, *TINY, "--checkpoint-every", "0") == 0
    assert sorted(contents(tmp_path)) == sorted([*RUN_FILES, *others])
    assert contents(tmp_path).items() >= others.items()


def test_a_run_that_fails_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    assert train("--out", tmp_path, *TINY, *DIVERGING) == 2
    assert contents(tmp_path) == {}
    assert train("--out", tmp_path / "some" / "where", *TINY, *DIVERGING) == 2
    assert contents(tmp_path) == {}


def test_nobody_else_trains_where_a_run_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_training(tmp_path / "run"):
        assert train("--out", tmp_path / "run", *TINY) == 2
        assert "run: expected no other command at work in it, found one" in capsys.readouterr().err
        assert list(contents(tmp_path / "run")) == [LOCK_NAME]
    assert train("--out", tmp_path / "run", *TINY) == 0
    assert sorted(contents(tmp_path / "run")) == RUN_FILES


def test_nobody_else_resumes_a_run_at_work(tmp_path: Path) -> None:
    assert train("--out", tmp_path, *TINY) == 0
    before = contents(tmp_path)
    resume = [sys.executable, "-P", "-m", "ffrl", "train", "--resume", "--out", str(tmp_path)]
    with sole_training(tmp_path):
        second = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == f"ffrl: --out {tmp_path}: expected no other command at work in it, found one\n"
    assert contents(tmp_path) == before


def test_a_lock_that_a_killed_command_left_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    assert train("--out", tmp_path, *TINY) == 0
    assert sorted(contents(tmp_path)) == RUN_FILES


def test_a_lock_removed_by_its_holder_is_no_lock(tmp_path: Path) -> None:
    with (tmp_path / LOCK_NAME).open("w") as file:
        (tmp_path / LOCK_NAME).unlink()
        with pytest.raises(UserError, match="expected no other command at work in it, found one"):
            lock(file, tmp_path)
