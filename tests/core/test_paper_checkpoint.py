"""Checkpoints of the paper's public code: its key names, its potentials' values and gradients, its losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.paper_code import Flow
from ffrl_fast import PotentialBank, hj_residual, potential_field
from ffrl_fast.tolerances import relative_error

DIM, COUNT, ROWS = 10, 3, 7
FLOAT64 = 1e-11
SETS = ["MLP_SET.", "FORCE_SET."]


@pytest.fixture
def flow() -> Flow:
    """The public class layout: K potentials and K forces of Linear layers."""
    torch.manual_seed(0)
    return Flow(COUNT, DIM).double()


def rows() -> Tensor:
    return torch.randn(ROWS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)


def test_the_layout_is_that_of_the_public_class(flow: Flow) -> None:
    layers = {"layer_x": (DIM, DIM), "layer_time": (DIM, DIM), "layer_time2": (DIM, DIM), "layer_fusion": (DIM, DIM)}
    layers["layer_out"] = (1, DIM)
    expected = {}
    for prefix in SETS:
        for k in range(COUNT):
            for layer, shape in layers.items():
                expected[f"{prefix}{k}.{layer}.weight"] = shape
                expected[f"{prefix}{k}.{layer}.bias"] = shape[:1]
    assert {name: tuple(value.shape) for name, value in flow.state_dict().items()} == expected


@pytest.mark.parametrize("prefix", SETS)
@pytest.mark.parametrize("k", range(COUNT))
def test_values_and_gradients_are_those_of_the_module(flow: Flow, prefix: str, k: int, backend: str) -> None:
    bank = PotentialBank.from_paper_state_dict(flow.state_dict(), prefix)
    assert (bank.num_potentials, bank.dim, bank.theta.dtype) == (COUNT, DIM, torch.float64)
    module = flow.get_submodule(f"{prefix}{k}")
    z, t = rows(), torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    u = module(z, t)
    u_z, u_t = torch.autograd.grad(u.sum(), (z, t), create_graph=True)

    ours = rows()
    field = potential_field(ours, 3.0, bank, index=k, backend=backend)
    assert relative_error(field.u, u[:, 0]) < FLOAT64
    assert relative_error(field.grad, u_z) < FLOAT64
    assert relative_error(field.dt.sum(), u_t.squeeze()) < FLOAT64

    # The gradient of a loss of the flow, in every weight and in z.
    bar = torch.randn(ROWS, DIM, dtype=torch.float64)
    ((u_z * bar).sum() + u.square().sum() + u_t.sum()).backward()
    ((field.grad * bar).sum() + field.u.square().sum() + field.dt.sum()).backward()
    assert relative_error(ours.grad, z.grad) < FLOAT64
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in flow.named_parameters()}
    exact = PotentialBank.from_paper_state_dict(gradients, prefix).theta
    assert exact[k].abs().min() > 0
    assert relative_error(bank.theta.grad, exact) < FLOAT64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_checkpoints_losses(flow: Flow, dtype: torch.dtype, backend: str) -> None:
    """The first step's loss, which has the initial condition in it, and a later one's; and the row sums."""
    flow = flow.to(dtype)
    state = flow.state_dict()
    bank, force = (PotentialBank.from_paper_state_dict(state, prefix) for prefix in SETS)
    z = rows().detach().to(dtype)
    call = {"force": force, "convention": "paper_code", "index": 1, "backend": backend}
    start = hj_residual(z, 0.0, bank, **call)  # type: ignore[arg-type]
    initial = start.grad.square().mean() + potential_field(z, 0.0, force, index=1, backend=backend).u.square().mean()
    for t in (1, 4):
        loss, u_z, u_zz = flow.step(1, z, t)
        here = hj_residual(z, float(t), bank, **call)  # type: ignore[arg-type]
        ours = here.residual.square().mean() + (initial if t == 1 else 0)
        bound = FLOAT64 if dtype == torch.float64 else 1e-5
        assert relative_error(ours, loss) < bound
        assert relative_error(here.grad, u_z) < bound
        ones = torch.ones(DIM, dtype=dtype)
        hvp = potential_field(z, float(t), bank, index=1, tangent=ones, backend=backend).hvp
        assert hvp is not None and relative_error(hvp, u_zz) < bound


def test_a_whole_checkpoint_has_other_parts(flow: Flow) -> None:
    """The public trainer's file holds the flow under "support_sets", beside parts that are no potentials."""
    checkpoint = {f"support_sets.{name}": value for name, value in flow.state_dict().items()}
    checkpoint["vae.encoder.linear_means.bias"] = torch.zeros(DIM)
    bank = PotentialBank.from_paper_state_dict(checkpoint, "support_sets.FORCE_SET.")
    assert torch.equal(bank.theta, PotentialBank.from_paper_state_dict(flow.state_dict(), "FORCE_SET.").theta)


def test_what_does_not_fit_is_named(flow: Flow) -> None:
    def changed(**changes: Tensor | None) -> dict[str, Tensor]:
        state = {**flow.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
        return {name: value for name, value in state.items() if value is not None}

    load = PotentialBank.from_paper_state_dict
    with pytest.raises(KeyError, match=r"state_dict has no 'FORCE\.0\.layer_x\.weight'"):
        load(flow.state_dict(), "FORCE.")
    with pytest.raises(KeyError, match=r"state_dict has no 'MLP_SET\.2\.layer_out\.bias'"):
        load(changed(MLP_SET__2__layer_out__bias=None))
    with pytest.raises(KeyError, match=r"state_dict has no 'MLP_SET\.1\.layer_x\.weight'"):
        load(changed(MLP_SET__1__layer_x__weight=None))
    with pytest.raises(KeyError, match=r"unknown keys .*'MLP_SET\.0\.layer_gate\.weight'"):
        load(changed(MLP_SET__0__layer_gate__weight=torch.zeros(DIM, DIM)))
    with pytest.raises(ValueError, match=r"MLP_SET\.1\.layer_fusion\.weight: expected \(10, 10\) .*, found \(10, 9\)"):
        load(changed(MLP_SET__1__layer_fusion__weight=torch.zeros(DIM, DIM - 1)))
    with pytest.raises(ValueError, match=r"MLP_SET\.0\.layer_x\.weight: expected two dimensions, found \(10,\)"):
        load(changed(MLP_SET__0__layer_x__weight=torch.zeros(DIM)))
    with pytest.raises(ValueError, match="depth"):
        load(flow.state_dict(), depth=2)
