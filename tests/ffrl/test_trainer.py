"""The trainer: resume to the bit, moving average, checkpoints, log."""

import csv
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from few import few
from ffrl.cli import main
from ffrl.data import Digits
from ffrl.errors import UserError
from ffrl.files import write_atomically
from ffrl.presets import Preset
from ffrl.training import Budget, Trainer
from ffrl.training.average import MovingAverage
from ffrl.training.checkpoint import Checkpoint, has_checkpoint, load_checkpoint, save_checkpoint
from ffrl.training.log import TrainingLog
from ffrl.training.processes import connect


def quiet() -> Console:
    return Console(file=io.StringIO())


def trainer(preset: Preset, digits: Digits, run: Path, budget: Budget | None = None, seed: int = 3) -> Trainer:
    return Trainer(preset, budget or Budget(iterations=9), few(digits), run, seed)


def assert_same_tensors(found: Path, expected: Path) -> None:
    left, right = load_checkpoint(found).tensors, load_checkpoint(expected).tensors
    assert left.keys() == right.keys()
    for name, value in right.items():
        assert torch.equal(left[name], value), name


_VARIANTS = {
    "separable": ["collocation_points=1"],
    "clocked": ["time_embedding=sinusoidal", "collocation_points=1"],
    "random clock": ["time_embedding=sinusoidal", "collocation_points=2", "random_clock=true"],
    "no equation": ["time_embedding=none", "hj_weight=0"],
    "velocity": ["flow=velocity"],
}


@pytest.mark.parametrize(("variant", "threads"), [*((name, 1) for name in _VARIANTS), ("separable", 2)])
def test_interrupted_and_resumed_ends_with_the_same_bits(
    small_preset: Preset, digits: Digits, tmp_path: Path, variant: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    preset = small_preset.override(_VARIANTS[variant])
    trainer(preset, digits, tmp_path / "whole").train(quiet())
    trainer(preset, digits, tmp_path / "parts").train(quiet(), stop_at=4)
    # Random numbers of the caller's own must not matter.
    torch.manual_seed(77)
    resumed = trainer(preset, digits, tmp_path / "parts", seed=1234)
    assert resumed.iteration == 4
    resumed.train(quiet(), stop_at=7)
    trainer(preset, digits, tmp_path / "parts").train(quiet())
    assert_same_tensors(tmp_path / "parts", tmp_path / "whole")


def test_seed_decides_everything(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        torch.manual_seed(len(name))
        trainer(small_preset, digits, tmp_path / name, Budget(iterations=2), seed).train(quiet())
    assert_same_tensors(tmp_path / "one", tmp_path / "two")
    first, third = (load_checkpoint(tmp_path / name).part("model") for name in ("one", "three"))
    assert not torch.equal(first["dynamics.potentials.theta"], third["dynamics.potentials.theta"])


def test_caller_random_numbers_are_left_alone(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    trainer(small_preset, digits, tmp_path).train(quiet())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("processor_time", [False, True])
def test_budget_of_minutes_ends(small_preset: Preset, digits: Digits, tmp_path: Path, processor_time: bool) -> None:
    run = trainer(small_preset, digits, tmp_path, Budget(minutes=0.003, processor_time=processor_time))
    run.train(quiet())
    assert run.finished
    assert run.seconds >= 0.18
    assert run.optimizer.param_groups[0]["lr"] < small_preset.learning_rate


def test_training_lowers_the_loss(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    run = trainer(small_preset, digits, tmp_path, Budget(iterations=60))
    losses = [run.step().loss.item() for _ in range(60)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_sigterm_ends_at_an_iteration_with_a_checkpoint(
    small_preset: Preset, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(small_preset, digits, tmp_path)
    step = run.step

    def step_and_terminate() -> object:
        objective = step()
        if run.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective

    monkeypatch.setattr(run, "step", step_and_terminate)
    before = signal.getsignal(signal.SIGTERM)
    run.train(quiet())
    assert not run.finished
    assert load_checkpoint(tmp_path).iteration == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loss_that_is_not_finite_leaves_the_checkpoint(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    trainer(small_preset, digits, tmp_path).train(quiet(), stop_at=2)
    run = trainer(small_preset, digits, tmp_path)
    with torch.no_grad():
        run.model.potentials.theta.fill_(float("nan"))
    with pytest.raises(UserError, match="iteration 3: expected a finite loss, found nan"):
        run.train(quiet())
    assert load_checkpoint(tmp_path).iteration == 2


def test_log_has_each_row_once_after_a_resume(tmp_path: Path) -> None:
    terms = ("loss", "reconstruction", "kl")
    row = dict.fromkeys(("seconds", "learning_rate", *terms), 1.0)
    with TrainingLog(tmp_path, terms, iteration=0) as log:
        for iteration in (50, 100, 150):
            log.write({"iteration": iteration, **row})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("200,1,1")
    with TrainingLog(tmp_path, terms, iteration=100) as log:
        log.write({"iteration": 150, **row})
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows] == ["50", "100", "150"]


def test_progress_without_a_terminal_is_a_few_lines(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    console = quiet()
    trainer(small_preset, digits, tmp_path, Budget(iterations=100)).train(console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().strip().splitlines()
    assert [line.split()[0] for line in lines] == ["50%", "100%"]


def test_moving_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    values = [1.0, 2.0, 5.0]
    with torch.no_grad():
        model.weight.fill_(values[0])
        average = MovingAverage(model, decay=0.3, every=2)
        for iteration, value in enumerate((3.0, 4.0, 6.0, 8.0), start=1):
            model.weight.fill_(value)
            average.update(model, iteration)
            # Before its first update it is the weights: a run of one iteration is evaluated with what it learnt.
            assert iteration > 1 or average.state_dict()["weight"].item() == value
    young, old = (3 / 12) ** 2, 0.3**2  # at iteration 2, and at 4, where 5 / 14 is above the decay
    expected = old * (young * 3.0 + (1 - young) * 4.0) + (1 - old) * 8.0
    assert average.state_dict()["weight"].item() == pytest.approx(expected)


def test_a_checkpoint_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path, Checkpoint({"model/w": torch.arange(3)}, 1, 0.5))
    finally:
        os.umask(before)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {".json": 0o640, ".safetensors": 0o640}


def test_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint({"model/w": torch.arange(3)}, 1, 0.5))
    save_checkpoint(tmp_path, Checkpoint({"model/w": torch.arange(4)}, 2, 1.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000002.safetensors", "checkpoint.json"]
    found = load_checkpoint(tmp_path)
    assert (found.iteration, found.seconds) == (2, 1.5)
    assert torch.equal(found.part("model")["w"], torch.arange(4))


def test_killed_between_its_two_files_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint({"model/w": torch.arange(3)}, 1, 0.5))
    (tmp_path / "checkpoint-00000002.safetensors").write_bytes(b"whole or not, checkpoint.json does not name it")
    assert load_checkpoint(tmp_path).iteration == 1


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a run with a checkpoint\.json, found none"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, Checkpoint({"model/w": torch.arange(3)}, 1, 0.5))
    path = tmp_path / "checkpoint-00000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"00000001\.safetensors: damaged: expected SHA-256 \w+, found \w+"):
        load_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"00000001\.safetensors: expected the tensors that checkpoint\.json names"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint\.json: expected JSON"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match=r"checkpoint\.json: expected a checkpoint of format 1, found no file"):
        load_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail_half_way)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("changes", [*_VARIANTS.values(), ["density=exact", "collocation_points=1"]], ids=str)
def test_accumulated_batches_are_one_batch(
    small_preset: Preset, digits: Digits, tmp_path: Path, changes: list[str]
) -> None:
    """Three batches of 6 rows make the step that one of 18 makes, up to roundings."""
    small = small_preset.override(changes)
    large = small.override(["batch_size=18"])
    budget, data = Budget(iterations=6), few(digits)
    parts = Trainer(small, budget, data, tmp_path / "parts", 3, accumulate=3)
    whole = Trainer(large, budget, data, tmp_path / "whole", 3)
    for _ in range(6):
        found, expected = parts.step(), whole.step()
        for name, value in expected._asdict().items():
            assert getattr(found, name).item() == pytest.approx(value.item(), rel=2e-4, abs=1e-6), name


def test_bfloat16_products_leave_the_flow_in_float32(small_preset: Preset, digits: Digits, tmp_path: Path) -> None:
    low = Trainer(
        small_preset, Budget(iterations=5), few(digits, 400), tmp_path / "low", 3, connect("cpu", "bf16-mixed")
    )
    full = Trainer(small_preset, Budget(iterations=5), few(digits, 400), tmp_path / "full", 3)
    for _ in range(5):
        found, expected = low.step(), full.step()
        assert found.loss.dtype == torch.float32
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
        assert found.loss.item() != expected.loss.item()


ENDING = """
import atexit, os, sys
from pathlib import Path
from ffrl.cli import main

@atexit.register  # before ffrl's own, so that it runs after it
def count():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    line = f"gloo's threads at the end: {sum('gloo' in name for name in names)}\\n"
    os.write(1, line.encode())  # at once: the other process writes to the same pipe

sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_have_the_losses_of_one_with_the_double_batch(tmp_path: Path) -> None:
    """gloo, on the CPU; no thread of it is left to abort a process that ends. The run resumes with as many processes as
    it had, no other number."""
    program = tmp_path / "program.py"
    program.write_text(ENDING)
    tiny = ["--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "potential_width=5", "--threads", "1"]
    ffrl = ["-m", "ffrl", "train", *tiny, "--iterations", "100", "--seed", "5"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [sys.executable, "-P", *ffrl, "--out", str(one), "--set", "batch_size=12"]
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (alone, [*torchrun, str(program), *ffrl[2:], "--out", str(two), "--set", "batch_size=6"]):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 100 iterations") == 1
    assert done.stdout.count("gloo's threads at the end: 0") == 2
    logs = [list(csv.DictReader((run / "log.csv").read_text().splitlines())) for run in (one, two)]
    assert [row["iteration"] for row in logs[0]] == ["50", "100"] == [row["iteration"] for row in logs[1]]
    for expected, found in zip(*logs, strict=True):
        assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
        assert float(found["hj"]) == pytest.approx(float(expected["hj"]), rel=1e-2)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--out", str(two)])
    assert end.value.code == 2


def test_killed_at_a_random_moment_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    tiny = ["--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "potential_width=5", "--threads", "1"]
    start = [sys.executable, "-P", "-m", "ffrl", "train", *tiny, "--iterations", "250"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*start, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*start, "--out", str(killed), "--checkpoint-every", "0.05"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not has_checkpoint(killed):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.random())
    process.kill()
    process.wait()
    stopped_at = load_checkpoint(killed).iteration
    assert 0 < stopped_at <= 250
    resume = [sys.executable, "-P", "-m", "ffrl", "train", "--resume", "--out", str(killed), "--threads", "1"]
    subprocess.run(resume, check=True, capture_output=True)
    assert_same_tensors(killed, whole)
