"""The same rows on any number of threads; the same sums, bit for bit, on the same number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ffrl_fast
from ffrl_fast import PotentialBank
from ffrl_fast.native import record_phases
from ffrl_fast.profile import PHASES

K = 3


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _run(operator: str, selection: str, rows: int, threads: int) -> tuple[list[Tensor], list[Tensor]]:
    """What belongs to rows, and what is summed over them."""
    torch.manual_seed(rows)
    dim = 64 if rows > 16 else 128  # large enough for the engine to use as many threads as it may
    bank, force = PotentialBank(K, dim, dtype=torch.float64), PotentialBank(K, dim, dtype=torch.float64)
    z = torch.randn(rows, dim, dtype=torch.float64, requires_grad=True)
    chosen: dict[str, Tensor | int] = {"index": 1}
    if selection == "index":
        chosen = {"index": torch.randint(0, K, (rows,))}
    elif selection == "gates":
        chosen = {"gates": torch.rand(rows, K, dtype=torch.float64)}
    torch.set_num_threads(threads)
    outputs: list[Tensor] = []
    if operator == "hj_residual":
        outputs = list(ffrl_fast.hj_residual(z, 0.5, bank, force=force, backend="cpu", **chosen))
        value = outputs[3].square().sum() + outputs[2].sum()
    elif operator == "integrate":
        path = ffrl_fast.integrate(z, [0.0, 1.0], bank, force=force, outputs=("residual",), backend="cpu", **chosen)
        assert path.residual is not None
        outputs = [path.z, path.residual]
        value = path.residual.square().sum() + path.z[-1].sum()
    else:
        value = ffrl_fast.hj_loss(z, 0.5, bank, force=force, backend="cpu", **chosen) * rows
    by_row, *summed = torch.autograd.grad(value, [z, bank.theta, force.theta])
    return [*outputs, by_row], [value.detach(), *summed]


@pytest.mark.parametrize("rows", [1, 16, 100, 333])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("operator", ["hj_residual", "integrate", "hj_loss"])
def test_any_number_of_threads(operator: str, selection: str, rows: int) -> None:
    rows_of_one, sums_of_one = _run(operator, selection, rows, 1)
    for threads in (2, 3):
        by_row, sums = _run(operator, selection, rows, threads)
        again, sums_again = _run(operator, selection, rows, threads)
        for found, one, twice in zip(by_row, rows_of_one, again, strict=True):
            assert torch.equal(found, one)
            assert torch.equal(found, twice)
        for found, one, twice in zip(sums, sums_of_one, sums_again, strict=True):
            assert torch.equal(found, twice)
            # The bound across counts: the roundings of as many additions as there are threads.
            scale = one.abs().max().clamp(min=1.0)
            assert (found - one).abs().max() <= 64 * torch.finfo(one.dtype).eps * scale


@pytest.mark.parametrize(
    ("dim", "rows", "used"), [(64, 16, 1), (64, 1024, 2), (324, 1, 2)], ids=["few", "many", "one row, wide network"]
)
def test_threads_are_used_where_they_pay(dim: int, rows: int, used: int) -> None:
    bank, z = PotentialBank(1, dim), torch.randn(rows, dim)
    torch.set_num_threads(2)
    with record_phases() as records:
        ffrl_fast.potential_field(z, 0.5, bank, backend="cpu")
    assert (records != 0).any(dim=1).sum() == used


def test_units_are_shared_out() -> None:
    """Of one row, the second thread takes its part of every product of both sweeps, and of the weight gradients."""
    bank, z = PotentialBank(1, 324), torch.randn(1, 324)
    torch.set_num_threads(2)
    with record_phases() as records:
        ffrl_fast.value_and_grad(z, 0.5, bank, backend="cpu")
    helper = dict(zip(PHASES, records[1, :-1].view(-1, 2)[:, 0].tolist(), strict=True))
    assert all(helper[name] > 0 for name in PHASES[2:11])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("forward", [1, 2, 3])
@pytest.mark.parametrize("backward", [1, 2, 3])
def test_backward_on_another_number_of_threads(forward: int, backward: int, steps: int) -> None:
    torch.manual_seed(0)
    bank = PotentialBank(K, 64, dtype=torch.float64)
    z, index = torch.randn(333, 64, dtype=torch.float64, requires_grad=True), torch.randint(0, K, (333,))

    def gradients(forward: int, backward: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(forward)
        path = ffrl_fast.integrate(z, [0.5] * steps, bank, index=index, outputs=("residual",), backend="cpu")
        assert path.residual is not None
        value = path.residual.square().sum() + path.z[-1].sum()
        torch.set_num_threads(backward)
        return torch.autograd.grad(value, (z, bank.theta))

    of_one = gradients(1, 1)
    for found, exact in zip(gradients(forward, backward), of_one, strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(gradients(forward, 1), gradients(forward, backward), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("operator", ["integrate", "hj_loss", "hessian_vector"])
def test_few_rows_are_shared_out_by_units(operator: str, selection: str, dtype: torch.dtype) -> None:
    """Where all threads go through a network together, every number is that of one thread, bit for bit."""
    torch.manual_seed(0)
    dim, width = 150, 333  # panels of several widths, padded columns
    bank = PotentialBank(K, dim, width=width, depth=2, dtype=dtype)
    force = PotentialBank(K, dim, width=width, depth=2, dtype=dtype)

    def run(rows: int, forward: int, backward: int) -> tuple[Tensor, ...]:
        torch.manual_seed(rows)
        z = torch.randn(rows, dim, dtype=dtype, requires_grad=True)
        chosen: dict[str, Tensor | int] = {"index": 1}
        if selection == "index":
            chosen = {"index": torch.randint(0, K, (rows,))}
        elif selection == "gates":
            chosen = {"gates": torch.rand(rows, K, dtype=dtype)}
        torch.set_num_threads(forward)
        if operator == "hj_loss":
            outputs = (ffrl_fast.hj_loss(z, 0.5, bank, force=force, backend="cpu", **chosen),)
        elif operator == "integrate":
            path = ffrl_fast.integrate(z, [0.0, 1.0], bank, force=force, outputs=("residual",), backend="cpu", **chosen)
            assert path.residual is not None
            outputs = (path.z, path.residual)
        else:
            tangent = torch.randn(rows, dim, dtype=dtype)
            u, dt, grad, hvp = ffrl_fast.potential_field(z, 0.5, bank, tangent=tangent, backend="cpu", **chosen)
            assert hvp is not None
            outputs = (u, dt, grad, hvp)
        value = torch.stack([o.square().sum() for o in outputs]).sum()
        torch.set_num_threads(backward)
        leaves = [z, bank.theta] + ([force.theta] if operator != "hessian_vector" else [])
        return (*(o.detach() for o in outputs), *torch.autograd.grad(value, leaves))

    for rows in (1, 3, 7, 24):  # weights in place, and packed
        of_one = run(rows, 1, 1)
        for forward, backward in ((2, 2), (3, 3), (1, 3), (3, 1)):
            found = run(rows, forward, backward)
            assert all(torch.equal(a, b) for a, b in zip(found, of_one, strict=True))


def test_phases_are_recorded_for_no_more_threads_than_when_that_began() -> None:
    bank, z = PotentialBank(1, 64), torch.randn(2000, 64)
    torch.set_num_threads(1)
    with record_phases() as records:
        torch.set_num_threads(3)
        ffrl_fast.potential_field(z, 0.5, bank, backend="cpu")
    assert records.shape[0] == 1 and records.any()


def test_fewer_threads_than_asked_for() -> None:
    """OpenMP need not give as many threads as torch has been told to use; no row may be lost by it."""
    program = """
import torch, ffrl_fast
for rows, dim in (333, 64), (3, 324):  # by rows, by units
    bank, z = ffrl_fast.PotentialBank(1, dim), torch.randn(rows, dim)
    torch.set_num_threads(3)
    found = ffrl_fast.value_and_grad(z, 0.5, bank, backend="cpu")
    torch.set_num_threads(1)
    exact = ffrl_fast.value_and_grad(z, 0.5, bank, backend="cpu")
    torch.testing.assert_close(found[0], exact[0])
    for a, b in zip(found[1][:2], exact[1][:2]):
        torch.testing.assert_close(a, b)
"""
    environment = os.environ | {"OMP_THREAD_LIMIT": "2", "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-P", "-c", program], check=True, env=environment, timeout=120)
