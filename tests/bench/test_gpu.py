"""The GPU benchmark on a CPU: its clockwork, since its numbers only a GPU can give."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu, gpu_speed
from bench.gpu import Deadline, run
from bench.gpu_speed import Rates, measure
from bench.problems import FlowProblem, Problem

WITHOUT_GPU = ("--device", "cpu", "--backends", "reference", "--compiler", "aot_eager", "--no-checks", "--seconds", "0")
RATES = Rates(dict.fromkeys(gpu_speed.PRECISIONS, 1e9), 1e9)


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_command_measures_every_size_however_many_are_compiled(tmp_path: Path) -> None:
    argv = [*WITHOUT_GPU, "--sizes", "4,6", "--rows", "5", "--precisions", "tf32,ieee", "--out", str(tmp_path)]
    with torch._dynamo.config.patch(recompile_limit=1):
        assert gpu.main(argv) == 0
    rows = _table(tmp_path)
    assert len(rows) == 2 * 2 * (4 + 3)
    assert {r["variant"] for r in rows} == {
        "reference",
        "eager autograd",
        "torch.func, torch.compile",
        "formulas by hand, torch.compile",
        "formulas and autograd, torch.compile",
    }
    for r in rows:
        assert float(r["median_us"]) >= float(r["minimum_us"]) > 0 and float(r["error"]) < 1e-4, r
        assert float(r["of_matmul"]) > 0 and float(r["of_copy"]) > 0
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["device"].startswith("CPU: this is not a measurement") and metadata["steps"] == []
    assert set(metadata["matmul_tflops"]) == {"ieee", "tf32", "bf16"}
    table = (tmp_path / "results.md").read_text()
    assert table.count("\n| step | 4 | 5 | ") == 8 and table.count("\n| integrate | 6 | 5 | ") == 6


def test_what_the_time_does_not_suffice_for_is_named(tmp_path: Path) -> None:
    argv = [*WITHOUT_GPU, "--minutes", "0", "--sizes", "4", "--rows", "5,7", "--precisions", "ieee"]
    assert gpu.main([*argv, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert "- not measured for want of time, not compiled: D = 4, B = 5 in ieee, D = 4, B = 7 in ieee" in text
    assert "compiled by torch: D = 4, B = 5 in ieee" in text


def test_a_variant_that_fails_costs_the_others_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*WITHOUT_GPU, "--sizes", "4", "--rows", "5", "--precisions", "ieee", "--out", str(tmp_path)]
    argv[argv.index("aot_eager")] = "no_such_compiler"
    assert gpu.main(argv) == 1
    assert "FAILED: " in capsys.readouterr().out
    rows = _table(tmp_path)
    failed = {r["variant"] for r in rows if not r["median_us"]}
    assert failed == {r["variant"] for r in rows if "torch.compile" in r["variant"]} and len(failed) == 3


def test_errors_are_against_float64() -> None:
    """An operand of which a part is missing shows."""
    (row, *_) = measure("step", 5, 7, "ieee", ["reference"], "cpu", 0, RATES)
    assert row.error is not None and 1e-9 < row.error < 1e-5


def test_fractions_by_hand() -> None:
    """Twelve products of 7·5·5, forty of T = 8 steps; z, ḡ and dL/dz, and the parameters twice."""
    step, path = Problem(5, 7), FlowProblem(5, 7)
    parameters = step.bank.theta.numel()
    assert step.flops("step") == 24 * 7 * 25 and path.flops() == 240 * 7 * 25
    assert step.least_bytes == 4 * (3 * 35 + 2 * parameters)
    assert path.least_bytes == 4 * (19 * 35 + 2 * parameters)
    for work, p in (("step", step), ("integrate", path)):
        for row in measure(work, 5, 7, "ieee", ["reference"], "cpu", 0, RATES):
            assert row.median_us is not None and row.of_matmul is not None and row.of_copy is not None
            operations = p.flops("step") if isinstance(p, Problem) else p.flops()
            assert row.of_matmul == pytest.approx(operations / (1e3 * row.median_us))
            assert row.of_copy == pytest.approx(p.least_bytes / (1e3 * row.median_us))


@pytest.mark.parametrize(
    ("program", "seconds", "state"),
    [
        ("print('as it should')", 300, "passed in … s: as it should"),
        ("import sys; print('why'); sys.exit(3)", 300, "FAILED with 3 in … s: why"),
        ("import time; time.sleep(600)", 1, "NOT FINISHED in … s"),
    ],
    ids=["passed", "failed", "too long"],
)
def test_a_check_that_fails_or_does_not_end_says_so(program: str, seconds: float, state: str) -> None:
    line = run("a check", (sys.executable, "-c", program), seconds)
    assert re.sub(r"in \d+ s", "in … s", line) == f"a check: {state}"


def test_the_commands_of_the_checks_exist() -> None:
    """The tests are there, few of them for the sanitizer, and training asks for nothing but the GPU."""
    counts = []
    for command in (gpu.TESTS, gpu.FEW):
        listed = subprocess.run([*command, "--collect-only"], cwd=gpu.ROOT, capture_output=True, text=True, check=True)
        counts.append(listed.stdout.count("tests/gpu/test_gpu.py::"))
    assert 0 < 3 * counts[1] < counts[0]
    if not torch.cuda.is_available():
        train = subprocess.run([*gpu.TRAIN, "--out", "never"], cwd=gpu.ROOT, capture_output=True, text=True)
        assert "--device cuda: expected a GPU" in train.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "never")]) == 2
    assert "needs a GPU" in capsys.readouterr().err and not (tmp_path / "never").exists()


def test_backends_that_cannot_run_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.able("cpu", ["cuda", "reference"]) == ["reference"]
    assert "runs on cuda tensors, not on cpu" in capsys.readouterr().out


def test_a_deadline_passes() -> None:
    assert Deadline(0).left <= 0 < Deadline(60).left <= 60
