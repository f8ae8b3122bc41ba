"""The operators of the GPU backends around an engine that computes by the reference: no kernel, and every device.

What is tested is what surrounds the kernels: paths, forces, energies, conditioning, autograd, vmap, compile.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import example, given
from torch import Tensor

import ffrl_fast
from cases import Case, by_oracle, cases, make, on_backend
from ffrl_fast import gpu, reference
from ffrl_fast.backends import Verdict
from ffrl_fast.backends.gpu import GpuBackend
from ffrl_fast.gpu.engine import Cotangents, Forward, Gradients, Precision, Rows, Wanted
from ffrl_fast.gpu.precision import precision_for
from ffrl_fast.tolerances import FLOAT64_AGAINST_ORACLE, relative_error


class OracleEngine:
    """An engine by the formulas of :mod:`ffrl_fast.reference` and automatic differentiation through them.

    Keeps a, as a kernel for a wide network would, and insists on getting it back.
    """

    def saved(self, rows: Rows, precision: Precision) -> tuple[Tensor, ...]:
        return (rows.z.new_empty(rows.z.shape[0], rows.shape.width),)

    @staticmethod
    def _hidden(rows: Rows) -> Tensor:
        w = rows.shape.unpack(rows.theta)
        return torch.tanh(rows.z @ w.w_in[0].mT + w.b_in[0])

    @staticmethod
    def _field(rows: Rows, tangent: Tensor | None = None) -> reference.Field:
        # No energy: it is not the engine's.
        theta = rows.theta.clone()
        if "energy" in rows.shape.fields:
            theta[:, rows.shape.fields["energy"][0]] = 0
        of = (rows.z, rows.z.new_zeros(1), theta, rows.shape, rows.tau, rows.dtau)
        return reference.potential_field(
            *of, potential=rows.potential, index=rows.index, gates=rows.gates, tangent=tangent
        )

    def forward(
        self,
        rows: Rows,
        precision: Precision,
        *,
        keep: bool,
        value_only: bool = False,
        drive: Tensor | None = None,
        tangent: Tensor | None = None,
    ) -> Forward:
        out = self._field(rows, tangent)
        residual = None if drive is None else out.dt + 0.5 * out.grad.square().sum(1) + drive
        saved = (self._hidden(rows),) if keep else ()
        if value_only:
            return Forward(out.u, out.u.new_empty(0), out.u.new_empty(0), None, None, saved)
        return Forward(out.u.clone(), out.dt.clone(), out.grad, out.hvp, residual, saved)

    def backward(
        self,
        rows: Rows,
        precision: Precision,
        out: Forward,
        cotangents: Cotangents,
        wanted: Wanted,
        *,
        value_only: bool = False,
    ) -> Gradients:
        assert torch.equal(out.saved[0], self._hidden(rows))
        # In a thread of its own: inside an operator's implementation autograd records nothing.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._backward, rows, out, cotangents, wanted, value_only).result()

    def _backward(
        self, rows: Rows, out: Forward, cotangents: Cotangents, wanted: Wanted, value_only: bool
    ) -> Gradients:
        leaves = [
            None if x is None else x.detach().requires_grad_()
            for x in (rows.z, rows.theta, rows.tau, rows.dtau, rows.gates)
        ]
        z, theta, tau, dtau, gates = leaves
        assert z is not None and theta is not None
        with torch.enable_grad():
            of = self._field(Rows(z, theta, rows.shape, tau, dtau, rows.potential, rows.index, gates))
            assert torch.allclose(of.u, out.u, rtol=1e-12, atol=1e-12)
            if not value_only:
                assert torch.allclose(of.grad, out.grad, rtol=1e-12, atol=1e-12)
            total = z.sum() * 0
            residual = of.dt + 0.5 * of.grad.square().sum(1)
            for bar, value in zip(cotangents, (of.u, of.dt, of.grad, residual), strict=True):
                if bar is not None:
                    total = total + (bar * value).sum()
        asked = [x for x, want in zip(leaves, wanted, strict=True) if want and x is not None]
        found = iter(torch.autograd.grad(total, asked, allow_unused=True, materialize_grads=True))
        return Gradients(*(next(found) if w and x is not None else None for x, w in zip(leaves, wanted, strict=True)))


@pytest.fixture(autouse=True, scope="module")
def oracle_backend() -> Iterator[None]:
    by_name = importlib.import_module("ffrl_fast.backends")._BY_NAME
    by_name["oracle"] = GpuBackend("oracle", lambda request: Verdict(True, "by the reference"), OracleEngine)
    yield
    del by_name["oracle"], gpu.engines["oracle"]


@given(case=cases(max_rows=20, max_size=9))
@example(case=Case(5, 4, 3, depth=2, potentials=3, selection="gates", time_embedding="separable", force=True))
@example(case=Case(0, 4, 3, potentials=3, selection="index", force=True))
def test_outputs_and_gradients(case: Case) -> None:
    inputs = make(case)
    exact, found = by_oracle(inputs), on_backend(inputs, "oracle")
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < FLOAT64_AGAINST_ORACLE, errors


def _path_with_gradients(case: Case, backend: str, moments: int, substeps: int, by_step: bool) -> dict[str, Tensor]:
    inputs = make(case)
    selection = dict(inputs.selection)
    if by_step and "gates" in selection:
        selection["gates"] = torch.stack([selection["gates"], *[selection["gates"] ** 2] * (moments - 1)], 1)
    times = (0.3 * torch.arange(moments, dtype=torch.float64)).requires_grad_()
    outputs = ("u", "dt", "residual", "row_sum", "log_det")
    path = ffrl_fast.integrate(
        inputs.z,
        times,
        inputs.bank,
        force=inputs.force,
        step=0.2,
        substeps=substeps,
        outputs=outputs,
        backend=backend,
        **selection,
    )
    found = {name: getattr(path, name) for name in ("z", *outputs)}
    g = torch.Generator().manual_seed(3)
    bars = {n: torch.randn(x.shape, generator=g, dtype=x.dtype) for n, x in found.items()}
    total = sum((found[n] * bars[n]).sum() for n in found)
    leaves = inputs.differentiable | {"times": times}
    del leaves["t"]
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return found | {f"d_{n}": x for n, x in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("time_embedding", ["sinusoidal", "separable", "none"])
@pytest.mark.parametrize(("moments", "substeps", "by_step"), [(3, 1, False), (2, 3, True), (1, 1, True)])
def test_paths(selection: str, time_embedding: str, moments: int, substeps: int, by_step: bool) -> None:
    case = Case(7, 4, 6, 2, 3, selection, time_embedding=time_embedding, force=True)  # type: ignore[arg-type]
    exact = _path_with_gradients(case, "reference", moments, substeps, by_step)
    found = _path_with_gradients(case, "oracle", moments, substeps, by_step)
    for name, value in exact.items():
        assert relative_error(found[name], value) < FLOAT64_AGAINST_ORACLE, name


def test_a_path_of_no_moments_and_one_of_no_rows() -> None:
    bank = ffrl_fast.PotentialBank(1, 3, dtype=torch.float64)
    for rows, times in ((4, []), (0, [0.0, 1.0])):
        z = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        path = ffrl_fast.integrate(z, times, bank, outputs=("u", "residual"), backend="oracle")
        assert path.z.shape == (len(times) + 1, rows, 3) and path.u is not None and path.u.shape == (len(times), rows)
        (gradient,) = torch.autograd.grad(path.z.sum(), z)
        assert torch.equal(gradient, torch.ones_like(z))


@pytest.mark.parametrize("shared", [True, False])
def test_tangent_with_and_without_a_gradient(shared: bool) -> None:
    inputs = make(Case(6, 5, 4, potentials=2, selection="index"))
    x = inputs.z.detach()[0] if shared else inputs.z.detach() + 1
    exact = ffrl_fast.potential_field(inputs.z, 0.4, inputs.bank, tangent=x, backend="reference", **inputs.selection)
    out = ffrl_fast.potential_field(inputs.z, 0.4, inputs.bank, tangent=x, backend="oracle", **inputs.selection)
    assert exact.hvp is not None and out.hvp is not None
    for of in (exact, out):
        assert of.hvp is not None
    (d_exact,) = torch.autograd.grad(exact.hvp.sum(), inputs.z)
    (d_found,) = torch.autograd.grad(out.hvp.sum(), inputs.z)
    assert relative_error(d_found, d_exact) < FLOAT64_AGAINST_ORACLE
    with torch.no_grad():
        out = ffrl_fast.potential_field(inputs.z, 0.4, inputs.bank, tangent=x, backend="oracle", **inputs.selection)
    assert out.hvp is not None and relative_error(out.hvp, exact.hvp) < FLOAT64_AGAINST_ORACLE


def test_vmap_and_grad() -> None:
    inputs = make(Case(6, 5, 4, potentials=1, force=False))
    z, bank = inputs.z.detach(), inputs.bank.requires_grad_(False)

    def u(row: Tensor, backend: str) -> Tensor:
        return ffrl_fast.potential_field(row[None], 0.3, bank, backend=backend).u[0]

    exact = torch.func.vmap(torch.func.grad(lambda row: u(row, "reference")))(z)
    assert relative_error(torch.func.vmap(torch.func.grad(lambda row: u(row, "oracle")))(z), exact) < 1e-12
    exact = torch.func.vmap(lambda row: u(row, "reference"))(z)
    assert relative_error(torch.func.vmap(lambda row: u(row, "oracle"))(z), exact) < 1e-12


def test_a_second_backward_is_an_error_that_names_the_reference() -> None:
    inputs = make(Case(6, 5, 4))
    out = ffrl_fast.potential_field(inputs.z, 0.3, inputs.bank, index=0, backend="oracle")
    (first,) = torch.autograd.grad(out.u.sum(), inputs.z, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.autograd.grad(first.sum(), inputs.z)


def test_compiled_whole() -> None:
    inputs = make(Case(6, 5, 4, potentials=2, selection="index", force=True)).to(torch.float32)

    def loss(z: Tensor) -> Tensor:
        out = ffrl_fast.hj_residual(z, 0.3, inputs.bank, force=inputs.force, backend="oracle", **inputs.selection)
        return out.residual.square().mean() + out.u.sum()

    (exact,) = torch.autograd.grad(loss(inputs.z), inputs.z)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(inputs.z), inputs.z)
    assert torch.equal(found, exact)


def test_an_index_out_of_range_is_an_error() -> None:
    bank = ffrl_fast.PotentialBank(2, 3)
    for index in (torch.tensor([0, 2]), torch.tensor([-1, 0])):
        with pytest.raises(IndexError, match="index: expected values in 0 … 1"):
            ffrl_fast.potential_field(torch.randn(2, 3), 0.0, bank, index=index, backend="oracle")


def test_precision_follows_torch_or_the_block() -> None:
    of = precision_for
    before = torch.get_float32_matmul_precision()
    try:
        for setting, expected in (("highest", "ieee"), ("high", "tf32"), ("medium", "bf16")):
            torch.set_float32_matmul_precision(setting)
            assert of(torch.float32) == expected
            with ffrl_fast.use_precision("tf32"):
                assert of(torch.float32) == "tf32" and of(torch.bfloat16) == "bf16" and of(torch.float64) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(ValueError, match="'ieee', 'tf32', 'bf16', found 'fp16'"), ffrl_fast.use_precision("fp16"):
        pass


def test_gpu_backends_are_taken_only_by_name() -> None:
    assert "→ reference" in ffrl_fast.explain(device="cuda")
    assert "by name only: never executed on a GPU" in ffrl_fast.explain(device="cuda")
    with pytest.raises(RuntimeError, match="backend='triton' cannot run potential_field: runs on cuda tensors"):
        ffrl_fast.potential_field(torch.randn(2, 3), 0.0, ffrl_fast.PotentialBank(1, 3), backend="triton")
    assert "has D and H up to 1024, not 2000" in ffrl_fast.explain(device="cuda", sizes=(2000, 64))
