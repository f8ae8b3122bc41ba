"""Where the time of a call goes."""

from __future__ import annotations

import pytest
import torch

from ffrl_fast import PotentialBank, _core, hj_loss, integrate, profile
from ffrl_fast.native import problem


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
    assert problem._phase_records == 0
    with pytest.raises(ValueError, match="wrong"), profile.record():
        raise ValueError("wrong")
    assert problem._phase_records == 0


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"dim": 12, "width": 20, "depth": 2, "batch": 60, "potentials": 3, "steps": 2, "seconds": 0, "threads": 1}
    profile.main([x for name, value in sizes.items() for x in (f"--{name}", str(value))])
    text = capsys.readouterr().out
    assert "integrate and its gradients: B = 60, D = 12, H = 20, L = 2, K = 3, float32, T = 2" in text
    assert f"backend cpu: C++ row tiles, {_core.isa()}" in text
    for name in (*profile.PHASES, "Python and autograd"):
        assert f"\n{name} " in text


@pytest.mark.parametrize("operator", ["hj_loss", "hj_residual", "potential_field"])
def test_each_operator(operator: str, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--operator", operator, "--batch", "50", "--seconds", "0", "--dtype", "float64", "--threads", "1"])
    assert f"{operator} and its gradients" in capsys.readouterr().out


def test_a_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_call", None)
    profile.main(["--dim", "324", "--batch", "8192", "--dry-run"])
    assert "20.6 GFLOP a call in 12 products" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--batch 0", "--dim 0", "--steps -1", "--threads 0", "--depth 0"])
def test_bad_sizes_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        profile.main(arguments.split())
    name, _ = arguments.split()
    assert f"{name}: expected an integer" in capsys.readouterr().err
