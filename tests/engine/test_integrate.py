"""The trajectory: Euler steps written out by hand, on each backend."""

from __future__ import annotations

import pytest
import torch

from ffrl_fast import PotentialBank, hj_residual, integrate, potential_field

T, B, K, D = 4, 11, 3, 5


@pytest.fixture
def setting() -> tuple[PotentialBank, PotentialBank, torch.Tensor]:
    bank = PotentialBank(K, D, 7, dtype=torch.float64)
    force = PotentialBank(K, D, 6, dtype=torch.float64)
    return bank, force, torch.randn(B, D, dtype=torch.float64)


def by_hand(z, times, bank, force, selections, step, substeps):  # type: ignore[no-untyped-def]
    path, u, dt, residual = [z], [], [], []
    for t, selection in zip(times, selections, strict=True):
        at_start = hj_residual(z, t, bank, force=force, backend="reference", **selection)
        u.append(at_start.u)
        dt.append(at_start.dt)
        residual.append(at_start.residual)
        for j in range(substeps):
            field = potential_field(z, t + j * step / substeps, bank, backend="reference", **selection)
            z = z + step / substeps * field.grad
        path.append(z)
    return torch.stack(path), torch.stack(u), torch.stack(dt), torch.stack(residual)


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize("step", [1.0, 0.25])
@pytest.mark.parametrize("kind", ["int", "index", "gates", "gates by step"])
def test_path_and_gradients(setting, kind: str, step: float, substeps: int, backend: str) -> None:  # type: ignore[no-untyped-def]
    bank, force, z0 = setting
    z0.requires_grad_()
    times = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    leaves = [z0, bank.theta, force.theta]
    selection: dict = {"index": 2}
    if kind == "index":
        selection = {"index": torch.randint(0, K, (B,))}
    elif kind.startswith("gates"):
        shape = (B, K) if kind == "gates" else (B, T, K)
        selection = {"gates": torch.rand(*shape, dtype=torch.float64).requires_grad_()}
        leaves.append(selection["gates"])
    each = [selection] * T
    if kind == "gates by step":
        each = [{"gates": selection["gates"][:, i]} for i in range(T)]

    expected = by_hand(z0, times, bank, force, each, step, substeps)
    path = integrate(
        z0,
        times,
        bank,
        force=force,
        step=step,
        substeps=substeps,
        outputs=("u", "dt", "residual"),
        backend=backend,
        **selection,
    )
    cotangents = [torch.randn_like(x) for x in expected]
    for found, exact in zip((path.z, path.u, path.dt, path.residual), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-12)

    def gradients(outputs):  # type: ignore[no-untyped-def]
        return torch.autograd.grad(sum((o * c).sum() for o, c in zip(outputs, cotangents, strict=True)), leaves)

    for found, exact in zip(gradients((path.z, path.u, path.dt, path.residual)), gradients(expected), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)


def test_only_what_was_asked_for_is_returned(setting, backend: str) -> None:  # type: ignore[no-untyped-def]
    bank, _, z0 = setting
    path = integrate(z0, [0.0, 1.0], bank, index=0, outputs=("dt",), backend=backend)
    assert path.z.shape == (3, B, D)
    assert path.dt.shape == (2, B)
    assert path.u is None and path.residual is None


def test_rows_do_not_see_each_other(setting, backend: str) -> None:  # type: ignore[no-untyped-def]
    bank, _, z0 = setting
    index = torch.randint(0, K, (B,))
    together = integrate(z0, [1.0, 2.0], bank, index=index, backend=backend).z
    alone = torch.cat(
        [integrate(z0[b : b + 1], [1.0, 2.0], bank, index=int(index[b]), backend=backend).z for b in range(B)], 1
    )
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("force_time", ["none", "sinusoidal", "separable"])
@pytest.mark.parametrize("time_embedding", ["none", "sinusoidal", "separable"])
def test_gradient_of_the_times(time_embedding: str, force_time: str, backend: str) -> None:
    bank = PotentialBank(K, D, 7, time_embedding=time_embedding, dtype=torch.float64)  # type: ignore[arg-type]
    force = PotentialBank(K, D, 9, time_embedding=force_time, dtype=torch.float64)  # type: ignore[arg-type]
    for of in (bank, force):
        of.theta.data.add_(0.1 * torch.randn_like(of.theta))
    z0, gates = torch.randn(B, D, dtype=torch.float64), torch.rand(B, K, dtype=torch.float64)
    times = torch.tensor([0.3, 1.1, 2.4], dtype=torch.float64, requires_grad=True)

    def gradient(backend: str) -> torch.Tensor:
        path = integrate(
            z0, times, bank, gates=gates, force=force, substeps=2, outputs=("u", "dt", "residual"), backend=backend
        )
        loss = path.z.square().sum() + path.u.sum() + path.dt.square().sum() + path.residual.square().sum()
        leaves = (times, bank.theta, force.theta)
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return torch.cat([(y * 0 if x is None else x).flatten() for x, y in zip(found, leaves, strict=True)])

    torch.testing.assert_close(gradient(backend), gradient("reference"), rtol=1e-10, atol=1e-12)
