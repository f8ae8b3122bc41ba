"""Where the time of a call goes."""

from __future__ import annotations

import pytest
import torch

from ffrl_fast import PotentialBank, _core, hj_loss, integrate, profile, use_backend
from ffrl_fast.native import plan


def test_every_phase_has_a_name() -> None:
    assert 2 * len(profile.PHASES) + 1 == _core.phase_record_size


@pytest.mark.parametrize("depth", [1, 3])
def test_operations_are_those_of_the_products(depth: int) -> None:
    rows, dim, width, steps = 100, 9, 20, 3
    bank = PotentialBank(2, dim, width, depth)
    z = torch.randn(rows, dim, requires_grad=True)
    index = torch.arange(rows) % 2
    weights = 2.0 * rows * width * (dim + depth * width)
    with profile.record() as loss:
        hj_loss(z, 0.5, bank, index=index).backward()
    assert loss.operations == 6 * weights
    with profile.record() as path:
        integrate(z, [1.0] * steps, bank, index=index).z.sum().backward()
    assert path.operations == steps * 6 * weights
    for found in (loss, path):
        assert 1 <= found.threads <= torch.get_num_threads()
        assert 0 < sum(p.seconds for p in found.phases[:-1]) <= found.engine_seconds * found.threads
        by_name = {p.name: p for p in found.phases}
        assert by_name["dW = d_pᵀ s + ĥᵀ d_v"].operations == found.operations / 3


def test_nothing_is_timed_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, z = PotentialBank(1, 8), torch.randn(4, 8)
    with profile.record() as found:
        pass
    hj_loss(z, 0.5, bank)
    assert found.engine_seconds == 0
    assert plan._phase_records == 0
    with pytest.raises(ValueError, match="wrong"), profile.record():
        raise ValueError("wrong")
    assert plan._phase_records == 0


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        "dim": 12,
        "width": 20,
        "depth": 2,
        "batch": 60,
        "potentials": 3,
        "steps": 2,
        "seconds": 0.001,
        "threads": 1,
    }
    profile.main([x for name, value in sizes.items() for x in (f"--{name}", str(value))])
    text = capsys.readouterr().out
    assert "integrate and its gradients: B = 60, D = 12, H = 20, L = 2, K = 3, float32, T = 2" in text
    assert f"backend cpu: C++ row tiles, {_core.isa()}" in text
    for name in (*profile.PHASES, "Python and autograd"):
        assert f"\n{name} " in text


@pytest.mark.parametrize("operator", ["hj_loss", "hj_residual", "potential_field"])
def test_each_operator(operator: str, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(
        ["--operator", operator, "--batch", "50", "--seconds", "0.001", "--dtype", "float64", "--threads", "1"]
    )
    assert f"{operator} and its gradients" in capsys.readouterr().out


def test_a_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_call", None)
    profile.main(["--dim", "324", "--batch", "8192", "--dry-run"])
    assert "20.6 GFLOP a call in 12 products" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        *("--batch 0", "--dim 0", "--steps -1", "--threads 0", "--depth 0", "--width x", "--potentials 1.5"),
        *("--threads 99999999999", "--dim 100000000", "--batch 1e3", "--steps 1000000000"),
    ],
)
def test_bad_sizes_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        profile.main([*arguments.split(), "--dry-run"])
    name, found = arguments.split()
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {name}: expected an integer from " in last and last.endswith(f"found {found!r}")


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "long"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        profile.main([f"--seconds={seconds}", "--dry-run"])
    assert f"argument --seconds: expected a finite number > 0, found {seconds!r}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "sizes",
    [
        "--dim 1048576 --potentials 1024 --batch 1",  # no address space holds so much
        "--dim 1048576 --potentials 1048576 --depth 1024 --batch 1",  # no 64-bit number does
    ],
)
def test_sizes_that_do_not_fit_into_memory(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        profile.main(sizes.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m ffrl_fast.profile: B = 1, D = 1048576") and line.endswith("into memory")


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("a fault of the engine")

    monkeypatch.setattr(profile, "_call", wrong)
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        profile.main(["--dim", "4", "--batch", "4"])


def test_a_backend_that_cannot_run_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with use_backend("cuda"), pytest.raises(SystemExit, match="2"):
        profile.main(["--dry-run"])
    assert "error: use_backend='cuda' cannot run hj_loss: " in capsys.readouterr().err.splitlines()[-1]
