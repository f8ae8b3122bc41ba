"""The commands from end to end with a tiny model, and how they end when the user errs."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from ffrl.cli import main
from ffrl.run import RunConfig
from ffrl.training.checkpoint import load_checkpoint

TINY = [
    "--iterations", "4", "--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "potential_width=5",
    "--set", "batch_size=6", "--threads", "1",
]  # fmt: skip


def run(*arguments: object) -> int:
    """Run a command in this process; the exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_train_evaluate_traverse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", "--preset", "quickstart", "--out", out, "--seed", "7", *TINY) == 0
    assert "trained 4 iterations" in capsys.readouterr().out
    assert run("evaluate", out, "--sequences", "20", "--samples", "1,2") == 0
    printed = capsys.readouterr().out
    for heading in ("scale", "rotate", "colour", "black", "decode(z_0)", "mean"):
        assert heading in printed
    result = json.loads((out / "evaluation.json").read_text())
    assert result["equivariance_error"]["scale"]["sequences"] == 20
    assert result["iteration"] == 4
    assert result["seed"] == 7
    assert set(result["versions"]) >= {"torch", "kornia", "python"}
    assert result["mean_ratio"] == pytest.approx(
        sum(error["ratio"] for error in result["equivariance_error"].values()) / 3
    )
    assert run("traverse", out, "--sequences", "2") == 0
    with Image.open(out / "traversal" / "colour.gif") as animation:
        assert animation.n_frames == 9


def test_what_was_measured_is_kept_whatever_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--out", tmp_path, *TINY) == 0
    evaluate = ("evaluate", tmp_path, "--sequences", "2", "--samples", "1", "--bound-sequences", "1")
    latin = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(latin, encoding="latin-1", write_through=True))
        assert run(*evaluate) == 0
        assert b"L1 error of t = 1?8" in latin.getvalue()
    (tmp_path / "evaluation.json").unlink()
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patch, open(write, "w") as closed:
        patch.setattr(sys, "stdout", closed)
        assert run(*evaluate) == 1
    assert (tmp_path / "evaluation.json").exists()
    assert capsys.readouterr().err == ""


def test_without_tensorboard_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run("train", "--out", tmp_path / "run", "--tensorboard", *TINY) == 2
    assert "--tensorboard: expected the package tensorboard, found none; pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert run("train", "--out", tmp_path, "--tensorboard", *TINY) == 0
    assert list((tmp_path / "tensorboard").iterdir())


def test_resume_keeps_the_run_and_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", "--out", out, *TINY) == 0
    assert run("train", "--resume", "--out", out) == 0
    assert "from iteration 4" in capsys.readouterr().out
    assert run("train", "--resume", "--out", out, "--seed", "0") == 2
    assert "--resume: expected no --seed" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_to_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "ffrl", "train", "--out", str(out), *TINY, "--iterations", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ((out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 1):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: ffrl train --resume --out {out}" in printed
    assert error == ""
    assert load_checkpoint(out).iteration >= 50


def test_what_resumes_a_run_repeats_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ffrl.cli.Trainer.train", lambda *_, **__: None)
    out = tmp_path / "my run"
    assert run("train", "--out", out, *TINY, "--checkpoint-every", "5", "--tensorboard") == 130
    options = f"--resume --out '{out}' --checkpoint-every 5.0 --tensorboard --threads 1"
    assert capsys.readouterr().out.endswith(f"go on with: ffrl train {options}\n")


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("train", "--out", whole, *TINY) == 0
    RunConfig.load(whole).save(killed)
    assert run("train", "--resume", "--out", killed) == 0
    name = "checkpoint-00000004.safetensors"
    with safe_open(whole / name, "pt") as expected, safe_open(killed / name, "pt") as found:
        for key in expected.keys():  # noqa: SIM118 - not a dict
            assert (expected.get_tensor(key) == found.get_tensor(key)).all(), key


def test_mnist_files(tmp_path: Path, mnist_root: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, root = tmp_path / "run", mnist_root(compressed=True)
    assert run("train", "--data", "mnist", "--root", root, "--out", out, *TINY) == 0
    assert run("evaluate", out, "--samples", "1") == 0
    assert "on 20 held-out sequences each" in capsys.readouterr().out
    (root / "train-images-idx3-ubyte.gz").unlink()
    assert run("evaluate", out) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--preset", "big"), "--preset: expected quickstart or weak or clocked or"),
        (("train", "--data", "mnist"), "expected --root DIR"),
        (("train", "--data", "mnist", "--root", "nowhere"), "--root nowhere: expected a folder"),
        (("train", "--iterations", "5", "--minutes", "1"), "expected one of the two, found both"),
        (("train", "--iterations", "0"), "--iterations: expected at least 1, found 0"),
        (
            ("train", "--set", "batch_size=2"),
            "batch_size: expected at least 3, a row for each transformation of digits",
        ),
        (("train", "--resume"), "expected a run with a config.json, found none"),
        (("--loud",), "No such option: --loud"),
        (("dream",), "No such command 'dream'. Commands: train, evaluate, traverse, "),
        (
            ("train", "--seed", "-1"),
            "Invalid value for '--seed': Input should be greater than or equal to 0, found '-1'",
        ),
        (("train", "--iterations=many"), "Invalid value for '--iterations': Input should be a valid integer"),
        (("train", "--iterations=many"), ", found 'many'"),
        (("train", "--threads", "1000000"), "Invalid value for '--threads'"),
        (("experiment", "evolution"), "Missing argument 'RUN'"),
        (("train", "--data", ""), "--data: expected one of digits"),
        (("train", "--preset", ""), "--preset: expected quickstart or"),
        (("train", "--precision", ""), "--precision: expected 32-true or bf16-mixed, found ''"),
        (("train", "--set", "hj_weight=inf"), "hj_weight: expected a finite number, found inf"),
        (("train", "--set", "beta=nan"), "beta: expected a finite number, found nan"),
        (("train", "--accumulate", "100000"), "accumulate: expected at most 1,000,000 rows a step, found 4,800,000"),
        (("train", "--set", "hidden=16,,8"), "--set hidden: expected numbers, like 512,256, found '16,,8'"),
        (("train", "--set", "latent_dim=1000000000000"), "latent_dim: expected at most 1,000,000"),
        (("evaluate", "nowhere"), "nowhere: expected a run with a config.json, found none"),
        (("traverse", "nowhere"), "nowhere: expected a run with a config.json, found none"),
    ],
)
def test_user_errors_are_one_line_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ffrl: ") and message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_argument_asks_for_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "Usage: ffrl [OPTIONS] COMMAND" in capsys.readouterr().out


def test_a_model_that_no_memory_holds_leaves_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # Address space for PyTorch, not for 3·10¹¹ weights, whatever the machine would promise.
    resource.setrlimit(resource.RLIMIT_AS, (2**38, limits[1]))
    try:
        sizes = ["--set", "latent_dim=300000", "--set", "potential_width=1000000"]
        assert run("train", "--out", tmp_path / "run", *TINY, *sizes) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    error = capsys.readouterr().err
    assert "expected sizes that fit into memory" in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ["--set", "learning_rate=1e30", "--set", "warmup_iterations=0"]
    assert run("train", "--out", tmp_path / "run", *TINY, *rate) == 2
    assert "expected a finite loss, found nan; a lower learning_rate in a new run may help" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--out", tmp_path / "run", *TINY) == 0
    assert run("train", "--out", tmp_path / "run", *TINY) == 2
    assert "found a run; use --resume or another folder" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--out", tmp_path, *TINY) == 0
    path = tmp_path / "checkpoint-00000004.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert run("evaluate", tmp_path) == 2
    assert f"{path}: damaged" in capsys.readouterr().err


def test_other_digits_than_trained_on_are_refused(
    tmp_path: Path, mnist_root: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = mnist_root()
    assert run("train", "--data", "mnist", "--root", root, "--out", tmp_path / "run", *TINY) == 0
    raw = bytearray((root / "train-labels-idx1-ubyte").read_bytes())
    raw[-1] = (raw[-1] + 1) % 10
    (root / "train-labels-idx1-ubyte").write_bytes(raw)
    assert run("evaluate", tmp_path / "run") == 2
    assert "expected the data of SHA-256" in capsys.readouterr().err


def test_module_entry_point_and_exit_code() -> None:
    end = subprocess.run(
        [sys.executable, "-P", "-m", "ffrl", "evaluate", "nowhere"], capture_output=True, text=True, check=False
    )
    assert end.returncode == 2
    assert end.stderr.splitlines() == ["ffrl: nowhere: expected a run with a config.json, found none"]
