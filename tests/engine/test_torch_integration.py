"""torch.compile, opcheck, gradcheck and vmap, on each backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.library import opcheck

import ffrl_fast
from cases import Case, make, on_backend
from ffrl_fast import (
    PotentialBank,
    hessian,
    hj_loss,
    hj_residual,
    integrate,
    laplacian,
    log_det,
    native,
    potential_field,
    reference,
)
from ffrl_fast.native.problem import KEPT_LAYOUT

SELECTIONS = ["int", "index", "gates"]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("per_row_time", [False, True])
@pytest.mark.parametrize("time_embedding", ["sinusoidal", "separable"])
def test_gradcheck(selection: Any, per_row_time: bool, time_embedding: Any, backend: str) -> None:
    inputs = make(Case(5, 3, 4, 2, 2, selection, per_row_time, time_embedding=time_embedding, force=True))
    leaves = inputs.differentiable

    def residual(*_: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            hj_residual(inputs.z, inputs.t, inputs.bank, force=inputs.force, backend=backend, **inputs.selection)
        )

    assert torch.autograd.gradcheck(residual, tuple(leaves.values()))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("per_row_time", [False, True])
def test_compile_in_one_graph(selection: Any, per_row_time: bool, backend: str) -> None:
    torch._dynamo.reset()
    inputs = make(Case(50, 6, 9, 2, 3, selection, per_row_time, force=True))
    leaves = list(inputs.differentiable.values())

    def loss(z: Tensor, t: Tensor) -> Tensor:
        out = hj_residual(z, t, inputs.bank, force=inputs.force, backend=backend, **inputs.selection)
        return out.residual.square().mean() + out.grad.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(inputs.z, inputs.t), leaves)
    exact = torch.autograd.grad(loss(inputs.z, inputs.t), leaves)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_compile_with_inductor_and_varying_rows(backend: str) -> None:
    torch._dynamo.reset()
    bank = PotentialBank(2, 6, 9)

    def loss(z: Tensor, index: Tensor) -> Tensor:
        return (
            integrate(z, [1.0, 2.0], bank, index=index, outputs=("residual",), backend=backend).residual.square().mean()
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for rows in (50, 7):
        z, index = torch.randn(rows, 6), torch.randint(0, 2, (rows,))
        (found,) = torch.autograd.grad(compiled(z, index), bank.theta)
        (exact,) = torch.autograd.grad(loss(z, index), bank.theta)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_export_with_any_number_of_rows(trained: bool, backend: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = PotentialBank(2, 6, 9).requires_grad_(trained)

        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return (
                integrate(z, [1.0, 2.0], self.bank, index=1, backend=backend).z,
                hj_residual(z, 0.5, self.bank, index=0, backend=backend).residual,
            )

    model = Model()
    exported = torch.export.export(model, (torch.randn(7, 6),), dynamic_shapes=[{0: torch.export.Dim("rows")}]).module()
    for rows in (2, 4, 5, 50):
        z = torch.randn(rows, 6)
        torch.testing.assert_close(exported(z), model(z))


def _native_arguments(selection: str, per_row_time: bool, force: bool) -> tuple[Any, ...]:
    inputs = make(Case(50, 6, 9, 2, 3, selection, per_row_time, force=force))  # type: ignore[arg-type]
    t = inputs.t.detach().reshape(-1)
    one = inputs.selection["index"] if selection == "int" else None
    with torch.no_grad():
        tau = dtau = force_tau = None
        if per_row_time:
            tau, dtau = inputs.bank.conditioning(t, one)
            force_tau = inputs.force.conditioning(t, one)[0] if inputs.force is not None else None
    shape = list(inputs.bank.shape.native) + (list(inputs.force.shape.native) if inputs.force is not None else [])
    return (
        inputs.z.detach(),
        t,
        inputs.bank.theta.detach(),
        tau,
        dtau,
        inputs.force.theta.detach() if inputs.force is not None else None,
        force_tau,
        inputs.selection["index"] if selection == "index" else None,
        inputs.selection["gates"].detach() if selection == "gates" else None,
        None,
        -1 if one is None else one,
        shape,
        force,
        False,
        False,
        0,
        0.0,
    )


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("per_row_time", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_opcheck_native(selection: str, per_row_time: bool, force: bool) -> None:
    arguments = _native_arguments(selection, per_row_time, force)
    opcheck(torch.ops.ffrl_fast.field.default, (*arguments, KEPT_LAYOUT))
    u, dt, residual, _, _, _, motion, tape, packed = torch.ops.ffrl_fast.field(*arguments, KEPT_LAYOUT)
    bars = [torch.randn_like(u), torch.randn_like(dt), torch.randn_like(residual) if force else None, None, None]
    bars.append(torch.randn_like(motion))
    wanted = [arguments[i] is not None for i in native.DIFFERENTIABLE]
    opcheck(torch.ops.ffrl_fast.field_backward.default, (*arguments, *bars, None, tape, packed, wanted))
    if force:
        opcheck(torch.ops.ffrl_fast.hj_loss.default, (*arguments, torch.rand_like(u), [*wanted, True]))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("per_row_time", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_opcheck_native_second_order(selection: str, per_row_time: bool, own: bool) -> None:
    arguments = list(_native_arguments(selection, per_row_time, False))
    z = arguments[0]
    for what in (native.HESSIAN, native.LAPLACIAN, native.LOG_DET):
        opcheck(torch.ops.ffrl_fast.curvature.default, (*arguments, what, 0.5))
    arguments[9] = torch.randn_like(z) if own else torch.randn(z.shape[1], dtype=z.dtype)
    opcheck(torch.ops.ffrl_fast.field.default, (*arguments, KEPT_LAYOUT))
    u, dt, _, hvp, _, _, motion, tape, packed = torch.ops.ffrl_fast.field(*arguments, KEPT_LAYOUT)
    bars = [torch.randn_like(u), torch.randn_like(dt), None, torch.randn_like(hvp), None, torch.randn_like(motion)]
    wanted = [arguments[i] is not None for i in native.DIFFERENTIABLE]
    opcheck(torch.ops.ffrl_fast.field_backward.default, (*arguments, *bars, None, tape, packed, wanted))


@pytest.mark.parametrize("operator", ["potential_field", "hj_loss", "laplacian"])
def test_compiled_function_transforms(operator: str) -> None:
    """torch.func.grad under torch.compile, where z is differentiated and does not require a gradient."""
    bank = PotentialBank(2, 5, 9, dtype=torch.float64)
    z, index = torch.randn(7, 5, dtype=torch.float64), torch.randint(0, 2, (7,))

    def loss(z: torch.Tensor) -> torch.Tensor:
        if operator == "hj_loss":
            return hj_loss(z, 0.5, bank, index=index)
        if operator == "laplacian":
            return laplacian(z, 0.5, bank, index=index).sum()
        return potential_field(z, 0.5, bank, index=index).grad.square().sum()

    exact = torch.func.grad(loss)(z).detach()
    assert float(exact.abs().max()) > 0
    compiled = torch.compile(lambda z: torch.func.grad(loss)(z), fullgraph=True)
    torch.testing.assert_close(compiled(z), exact)
    if operator == "laplacian":  # a reference inside
        return
    bank.requires_grad_(False)
    torch._dynamo.reset()
    # Ours with the kernels in C++, else torch's.
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=r"not frozen|autograd\.Function with functorch"):
        torch.compile(lambda z: torch.func.grad(loss)(z), fullgraph=True)(z)


def test_second_order_under_compile_and_vmap() -> None:
    bank = PotentialBank(2, 5, 9, dtype=torch.float64)
    z, index = torch.randn(7, 5, dtype=torch.float64), torch.randint(0, 2, (7,))
    x = torch.randn(7, 5, dtype=torch.float64)

    def loss(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out = potential_field(z, 0.5, bank, index=index, tangent=x)
        return (out.hvp * out.grad).sum()

    exact = torch.func.grad(loss, argnums=(0, 1))(z, x)
    compiled = torch.compile(lambda z, x: torch.func.grad(loss, argnums=(0, 1))(z, x), fullgraph=True)
    torch.testing.assert_close(compiled(z, x), exact)

    with torch.no_grad():
        for of in (laplacian, lambda z, t, b, index: log_det(z, t, b, index=index).value):
            batches = torch.randn(3, 7, 5, dtype=torch.float64)
            found = torch.func.vmap(lambda z, of=of: of(z, 0.5, bank, index=index))(batches)
            for i in range(3):
                torch.testing.assert_close(found[i], of(batches[i], 0.5, bank, index=index))
        # A direction for each element, and one for each row of each.
        for shape in ((3, 5), (3, 7, 5)):
            tangents = torch.randn(shape, dtype=torch.float64)
            found = torch.func.vmap(lambda t: potential_field(z, 0.5, bank, index=index, tangent=t).hvp)(tangents)
            for i in range(3):
                one = potential_field(z, 0.5, bank, index=index, tangent=tangents[i]).hvp
                torch.testing.assert_close(found[i], one)


@pytest.mark.parametrize("substeps", [1, 2])
def test_opcheck_native_path(substeps: int) -> None:
    bank = PotentialBank(2, 6, 9, dtype=torch.float64)
    z, times = torch.randn(50, 6, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    with torch.no_grad():
        conditioning = bank.conditioning(times)
    index, shape = torch.randint(0, 2, (50,)), list(bank.shape.native)
    given = (z, times, bank.theta.detach(), *conditioning, None, None, index, None, None)
    arguments = (*given, -1, shape, True, True, True, substeps, 0.5)
    opcheck(torch.ops.ffrl_fast.field.default, (*arguments, KEPT_LAYOUT))
    u, dt, residual, _, row_sum, _, path, tape, packed = torch.ops.ffrl_fast.field(*arguments, KEPT_LAYOUT)
    bars = [torch.randn_like(x) for x in (u, dt, residual)]
    bars += [None, torch.randn_like(row_sum), torch.randn_like(path)]
    wanted = [True, False, True, True, True, False, False, False, False]
    opcheck(torch.ops.ffrl_fast.field_backward.default, (*arguments, *bars, path, tape, packed, wanted))


def test_opcheck_reference() -> None:
    """The reference is no operator of its own; made one for the occasion, it must pass the same checks."""
    shape = PotentialBank(2, 3, 4).shape
    with torch.library._scoped_library("ffrl_fast_test", "DEF") as library:
        library.define(
            "field(Tensor z, Tensor t, Tensor theta, Tensor tau, Tensor dtau, Tensor index) -> (Tensor, Tensor, Tensor)"
        )

        def field(z: Tensor, t: Tensor, theta: Tensor, tau: Tensor, dtau: Tensor, index: Tensor) -> Any:
            return tuple(reference.potential_field(z, t, theta, shape, tau, dtau, index=index))[:3]

        library.impl("field", field, "CompositeImplicitAutograd")
        theta = torch.randn(2, shape.num_parameters)
        t = torch.tensor([0.5])
        tau, dtau = reference.conditioning(t, theta, shape)
        arguments = (torch.randn(5, 3), t, theta, tau, dtau, torch.tensor([0, 1, 1, 0, 1]))
        opcheck(torch.ops.ffrl_fast_test.field.default, arguments)


class TestVmap:
    @pytest.fixture
    def bank(self) -> PotentialBank:
        return PotentialBank(3, 4, 6, dtype=torch.float64)

    @pytest.mark.parametrize("kind", ["int", "index", "gates"])
    def test_rows(self, bank: PotentialBank, kind: str, backend: str) -> None:
        z, t = torch.randn(9, 4, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
        index, gates = torch.randint(0, 3, (9,)), torch.rand(9, 3, dtype=torch.float64)

        def one(z: Tensor, t: Tensor, index: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            selection = {"int": {"index": 1}, "index": {"index": index[None]}, "gates": {"gates": gates[None]}}[kind]
            out = potential_field(z[None], t, bank, backend=backend, **selection)
            return out.u[0], out.dt[0], out.grad[0]

        whole = {"int": {"index": 1}, "index": {"index": index}, "gates": {"gates": gates}}[kind]
        exact = potential_field(z, t, bank, backend="reference", **whole)
        for a, b in zip(vmap(one)(z, t, index, gates), exact[:3], strict=True):
            torch.testing.assert_close(a, b)

    def test_over_a_batch_of_tiles_in_any_place(self, bank: PotentialBank, backend: str) -> None:
        z = torch.randn(7, 5, 4, dtype=torch.float64)

        def tile(z: Tensor) -> Tensor:
            return potential_field(z, 0.5, bank, index=2, backend=backend).grad

        expected = potential_field(z.transpose(0, 1).reshape(35, 4), 0.5, bank, index=2).grad.reshape(5, 7, 4)
        torch.testing.assert_close(vmap(tile, in_dims=1)(z), expected)

    def test_with_grad_inside_and_outside(self, bank: PotentialBank, backend: str) -> None:
        z = torch.randn(9, 4, dtype=torch.float64)

        def u(z: Tensor) -> Tensor:
            return potential_field(z[None], 0.5, bank, index=1, backend=backend).u[0]

        expected = potential_field(z, 0.5, bank, index=1).grad
        torch.testing.assert_close(vmap(grad(u))(z), expected)
        torch.testing.assert_close(grad(lambda z: vmap(u)(z).sum())(z), expected)

    def test_hessian_by_jacrev(self, bank: PotentialBank, backend: str) -> None:
        z = torch.randn(4, dtype=torch.float64)

        def gradient(z: Tensor) -> Tensor:
            return potential_field(z[None], 0.5, bank, index=1, backend=backend).grad[0]

        hessian = jacrev(gradient)(z)
        torch.testing.assert_close(hessian, hessian.T)
        x = torch.randn(4, dtype=torch.float64)
        hvp = potential_field(z[None], 0.5, bank, index=1, tangent=x, backend="reference").hvp
        torch.testing.assert_close(hessian @ x, hvp[0])

    def test_gradients_of_the_second_order(self, bank: PotentialBank, backend: str) -> None:
        """jacrev and vmap(grad) of what itself has the reference's gradient."""
        z = torch.randn(3, 4, dtype=torch.float64)
        for f in (
            lambda z, backend: hessian(z, 0.5, bank, index=1, backend=backend),
            lambda z, backend: laplacian(z, 0.5, bank, index=1, backend=backend),
            lambda z, backend: log_det(z, 0.5, bank, index=1, backend=backend).value,
        ):
            found, exact = (jacrev(lambda z, f=f, b=b: f(z, b))(z) for b in (backend, "reference"))
            torch.testing.assert_close(found, exact)
            found, exact = (vmap(grad(lambda z, f=f, b=b: f(z[None], b).sum()))(z) for b in (backend, "reference"))
            torch.testing.assert_close(found, exact)

    def test_no_elements(self, bank: PotentialBank, backend: str) -> None:
        none = torch.empty(0, 5, 4, dtype=torch.float64)
        for f, shape in (
            (lambda z: potential_field(z, 0.5, bank, index=1, backend=backend).grad, (0, 5, 4)),
            (lambda z: integrate(z, [0.5, 1.5], bank, index=1, backend=backend).z, (0, 3, 5, 4)),
            (lambda z: laplacian(z, 0.5, bank, index=1, backend=backend), (0, 5)),
            (lambda z: log_det(z, 0.5, bank, index=1, backend=backend).sign, (0, 5)),
        ):
            assert vmap(f)(none).shape == shape

    def test_gradients_of_parameters_by_sample(self, bank: PotentialBank, backend: str) -> None:
        z = torch.randn(5, 4, dtype=torch.float64)

        def loss(theta: Tensor, z: Tensor) -> Tensor:
            out = torch.func.functional_call(_Field(bank, backend), {"bank.theta": theta}, (z[None],))
            return out.residual.square().sum()

        by_sample = vmap(grad(loss), (None, 0))(bank.theta.detach(), z)
        for i in range(5):
            exact = grad(loss)(bank.theta.detach(), z[i])
            torch.testing.assert_close(by_sample[i], exact)

    def test_parameters_are_not_mapped_by_the_native_backend(self, bank: PotentialBank) -> None:
        def loss(theta: Tensor) -> Tensor:
            return torch.func.functional_call(
                _Field(bank, "cpu"), {"bank.theta": theta}, (torch.zeros(1, 4).double(),)
            ).u

        with pytest.raises(NotImplementedError, match="num_potentials networks"):
            vmap(loss)(torch.stack([bank.theta.detach()] * 2))

    def test_times_of_a_path_are_not_mapped_by_the_native_backend(self, bank: PotentialBank) -> None:
        def end(times: Tensor, backend: str) -> Tensor:
            return integrate(torch.zeros(2, 4).double(), times, bank, index=1, backend=backend).z[-1]

        times = torch.rand(3, 2, dtype=torch.float64)
        with pytest.raises(NotImplementedError, match="times of a path"):
            vmap(lambda t: end(t, "cpu"))(times)
        mapped = vmap(lambda t: end(t, "reference"))(times)
        torch.testing.assert_close(mapped, torch.stack([end(t, "cpu") for t in times]))


class _Field(torch.nn.Module):
    def __init__(self, bank: PotentialBank, backend: str) -> None:
        super().__init__()
        self.bank, self.backend = bank, backend

    def forward(self, z: Tensor) -> ffrl_fast.HJResidual:
        return hj_residual(z, 0.5, self.bank, index=1, backend=self.backend)


def test_tangent_is_the_hessian_times_a_direction() -> None:
    for case in (Case(6, 5, 7, 2, 2, "gates"), Case(6, 5, 7, 3, out_activation="identity")):
        inputs = make(case)
        for tangent in (torch.randn(5).double(), torch.randn(6, 5).double()):
            field = potential_field(inputs.z, inputs.t, inputs.bank, tangent=tangent, **inputs.selection)
            (exact,) = torch.autograd.grad((field.grad * tangent).sum(), inputs.z, create_graph=True)
            torch.testing.assert_close(field.hvp, exact)


def test_paper_code_convention(backend: str) -> None:
    inputs = make(Case(12, 4, 5, potentials=2, force=True))
    out = hj_residual(
        inputs.z,
        inputs.t,
        inputs.bank,
        force=inputs.force,
        convention="paper_code",
        backend=backend,
        **inputs.selection,
    )
    # As the public code computes it: one (1, 1) time for the batch, so that autograd sums over rows.
    t = inputs.t.detach().reshape(1, 1).requires_grad_()
    z = inputs.z.detach().requires_grad_()
    from ffrl_fast import autodiff

    k = inputs.selection["index"]
    u = autodiff.potential(z, t.reshape(1), inputs.bank.weights(), k, inputs.bank.shape)
    force = autodiff.potential(z, t.reshape(1), inputs.force.weights(), k, inputs.force.shape)
    u_t, u_z = torch.autograd.grad(u.sum(), (t, z))
    torch.testing.assert_close(out.residual, u_t[0] + 0.5 * u_z.square().mean() + force.square())


@pytest.mark.parametrize("unused", ["u", "residual"])
def test_same_threads_same_bits(unused: str) -> None:
    inputs = make(Case(1_000, 33, 65, 2, 3, "index", force=True), torch.float32).to(torch.float32)
    first, second = on_backend(inputs, "cpu"), on_backend(inputs, "cpu")
    assert all(torch.equal(first[name], second[name]) for name in first)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = on_backend(inputs, "cpu")
    finally:
        torch.set_num_threads(threads)
    # Rows do not depend on the number of threads; sums over rows do, in their last bits.
    for name in ("u", "dt", "grad", "residual", "d_z"):
        assert torch.equal(first[name], alone[name]), name


@pytest.mark.parametrize("rows", [3, 1_000])  # the latter's tensors lie in the engine's own blocks
def test_default_device_is_not_asked(rows: int, backend: str) -> None:
    """Tensors lie where z does. On another device the engine would be handed addresses that are not the host's."""
    inputs = make(Case(rows, 64, 65, 1, 3, "gates", force=True), torch.float32).to(torch.float32)
    z, t, bank, gates = inputs.z, inputs.t, inputs.bank, inputs.selection["gates"]

    def run() -> list[Tensor]:
        tangent, weight = z.detach() / 3, z.detach()[:, 0].clone().requires_grad_()
        out = potential_field(z, t, bank, gates=gates, tangent=tangent, backend=backend)
        loss = hj_loss(z, t, bank, force=inputs.force, gates=gates, weight=weight, backend=backend)
        path = integrate(z, [0.0, 1.0], bank, gates=gates, outputs=("u", "residual", "row_sum"), backend=backend)
        assert out.hvp is not None and path.residual is not None and path.row_sum is not None
        everything = (out.u, out.dt, out.grad, out.hvp, loss, path.z, path.residual, path.row_sum)
        found = torch.autograd.grad([x.square().mean() for x in everything], (z, gates, weight, bank.theta))
        value, gradients = ffrl_fast.value_and_grad(z, t, bank, gates=gates, backend=backend)
        few = {"gates": gates[:3], "backend": backend}
        second = [laplacian(z[:3], t, bank, **few), *log_det(z[:3], t, bank, step=0.1, **few)]
        with torch.no_grad():
            second.append(ffrl_fast.hessian(z[:3], t, bank, **few))
        return [x for x in (*everything, *found, value, *gradients, *second) if x is not None]

    before = run()
    with torch.device("meta"):
        after = run()
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)
