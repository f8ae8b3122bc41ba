"""Autograd's nodes in C++ against those in Python: the same bits, nothing kept alive, and the right ones chosen."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from cases import Case, cases, make
from ffrl_fast import (
    PotentialBank,
    _core,
    calls,
    hj_loss,
    hj_residual,
    integrate,
    potential_field,
    release_memory,
    value_and_grad,
)
from ffrl_fast.native import nodes

needs_compiled = pytest.mark.skipif(nodes.compiled is None, reason=nodes.in_use)


def _everything(case: Case, weighted: bool) -> list[Tensor]:
    """Results and gradients of all calls that have nodes, with some of the cotangents zero."""
    inputs = make(case)
    z, t, bank, force, of = inputs.z, inputs.t, inputs.bank, inputs.force, inputs.selection
    leaves = [z, t, bank.theta, *([] if force is None else [force.theta]), *([of["gates"]] if "gates" in of else [])]
    weight = torch.rand(case.rows, dtype=z.dtype).requires_grad_() if weighted else None
    tangent = torch.ones_like(z.detach()).requires_grad_()
    found: list[Any] = []

    def add(outputs: Any, total: Tensor, of: list[Tensor] = leaves) -> None:
        found.extend(outputs)
        found.extend(torch.autograd.grad(total, of, allow_unused=True))

    field = potential_field(z, t, bank, tangent=tangent, **of)
    add(field, field.hvp.sum() + field.u.sum(), [*leaves, tangent])
    residual = hj_residual(z, t, bank, force=force, **of)
    add(residual, residual.residual.square().sum())
    add([], (hj_residual(z, t, bank, force=force, **of).grad * z.detach()).sum())
    loss = hj_loss(z, t, bank, force=force, weight=weight, **of)
    add([loss], 3 * loss, leaves if weight is None else [*leaves, weight])
    value, gradients = value_and_grad(z, t, bank, force=force, weight=weight, **of)
    found += [value, *gradients]
    times = torch.tensor([0.5, 1.5], dtype=z.dtype, requires_grad=True)
    path = integrate(z, times, bank, force=force, substeps=2, outputs=("dt", "residual", "row_sum"), **of)
    assert path.dt is not None and path.residual is not None and path.row_sum is not None
    add(path, path.z[1:].square().sum() + path.residual.sum() + path.row_sum.sum(), [*leaves, times])
    return [x.detach() for x in found if x is not None]


@needs_compiled
@given(case=cases(max_rows=60, max_size=40))
def test_the_same_bits(case: Case) -> None:
    for weighted in (False, True):
        torch.manual_seed(case.seed)
        calls._seen.clear()
        ours = _everything(case, weighted)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nodes, "compiled", None)
            torch.manual_seed(case.seed)
            calls._seen.clear()
            expected = _everything(case, weighted)
        calls._seen.clear()
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@needs_compiled
def test_their_names() -> None:
    z, bank = torch.randn(3, 4, requires_grad=True), PotentialBank(1, 4)
    assert potential_field(z, 0.5, bank).u.grad_fn.name() == "FFRLFieldBackward"
    assert integrate(z, [0.5], bank).z.grad_fn.name() == "FFRLFieldBackward"
    assert hj_loss(z, 0.5, bank).grad_fn.name() == "FFRLHJLossBackward"


CALLS: list[Callable[..., Tensor]] = [
    lambda z, bank, **of: potential_field(z, 0.5, bank, **of).grad,
    lambda z, bank, **of: integrate(z, [0.5, 1.0], bank, **of).z,
    lambda z, bank, **of: hj_loss(z, 0.5, bank, **of),
]


@pytest.mark.usefixtures("each_kind_of_nodes")
class TestEach:
    """What holds of either."""

    def test_nothing_is_kept_alive(self) -> None:
        """A path is an output and is saved: it must not hold itself."""
        bank = PotentialBank(1, 8)
        gc.collect()
        gc.disable()
        try:
            for backward in (False, True):
                z = torch.randn(5, 8, requires_grad=True)
                path, field, loss = integrate(z, [0.5, 1.0], bank), potential_field(z, 0.5, bank), hj_loss(z, 0.5, bank)
                if backward:
                    total = path.z.sum() + field.grad.sum() + loss
                    torch.autograd.grad(total, (z, bank.theta))
                    del total
                ended = [weakref.ref(x) for x in (z, path.z, field.grad, loss)]
                del z, path, field, loss
                assert [x() for x in ended] == [None] * len(ended)
        finally:
            gc.enable()

    def test_large_tensors_outlive_their_graph(self) -> None:
        """Those come from the engine's own blocks."""
        bank = PotentialBank(1, 64)
        z = torch.randn(2048, 64, requires_grad=True)
        expected = torch.autograd.grad(hj_loss(z, 0.5, bank, backend="reference"), z)[0]
        found = [torch.autograd.grad(2 * hj_loss(z, 0.5, bank), z)[0] for _ in range(3)]
        release_memory()
        again = [torch.autograd.grad(hj_loss(z, 0.5, bank), z)[0] for _ in range(3)]
        for x in found:
            torch.testing.assert_close(x, 2 * expected)
        for x in again:
            torch.testing.assert_close(x, expected)

    def test_gradients_add_up(self) -> None:
        z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(1, 5)
        once = torch.autograd.grad(hj_loss(z, 0.5, bank), (z, bank.theta))
        for _ in range(2):
            hj_loss(z, 0.5, bank).backward()
        for leaf, of in zip((z, bank.theta), once, strict=True):
            torch.testing.assert_close(leaf.grad, 2 * of)

    def test_a_second_backward_and_a_changed_input_are_errors(self) -> None:
        bank = PotentialBank(1, 5)
        for run in (
            lambda z: potential_field(z, 0.5, bank).u.sum(),
            lambda z: integrate(z, [0.5, 1.0], bank).z.sum(),
            lambda z: hj_loss(z, 0.5, bank),
        ):
            total = run(torch.randn(6, 5, requires_grad=True))
            total.backward()
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                total.backward()
        for run in (
            lambda z: potential_field(z, 0.5, bank).u,
            lambda z: integrate(z, [0.5, 1.0], bank).z,
        ):
            z = torch.randn(6, 5, requires_grad=True) * 1
            out = run(z)
            z.add_(1)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.sum().backward()
        path = integrate(torch.randn(6, 5, requires_grad=True), [0.5, 1.0], bank).z
        path.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            path.sum().backward()

    def test_a_derivative_of_a_derivative_is_an_error(self) -> None:
        z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(1, 5)
        for total in (potential_field(z, 0.5, bank).u.sum(), integrate(z, [0.5], bank).z.sum(), hj_loss(z, 0.5, bank)):
            (gradient,) = torch.autograd.grad(total, z, create_graph=True)
            with pytest.raises(RuntimeError, match="gradients of first order only"):
                gradient.sum().backward()

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpoints(self, reentrant: bool) -> None:
        """Where a call of ours saves last, the one that computes again is ended by an exception of the hook."""
        bank = PotentialBank(1, 5)
        for run in (
            lambda z: integrate(z, [0.5, 1.0], bank).z.square().sum() + hj_loss(z, 0.5, bank),
            lambda z: hj_loss(potential_field(z, 0.5, bank).grad, 0.5, bank),
            lambda z: potential_field(z, 0.5, bank).grad,
            lambda z: integrate(z, [0.5, 1.0], bank).z,
        ):
            z = torch.randn(6, 5, requires_grad=True)
            expected = torch.autograd.grad(run(z).sum(), (z, bank.theta))
            bank.theta.grad = None
            checkpoint(run, z, use_reentrant=reentrant).sum().backward()
            torch.testing.assert_close((z.grad, bank.theta.grad), expected)

    def test_errors_of_hooks_and_of_torch_arrive(self) -> None:
        z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(1, 5)

        def fail(x: Tensor) -> Tensor:
            raise KeyError("of a hook")

        for run in CALLS:
            with torch.autograd.graph.saved_tensors_hooks(fail, fail), pytest.raises(KeyError, match="of a hook"):
                run(z, bank)
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x, fail):
                total = run(z, bank).sum()
            with pytest.raises(KeyError, match="of a hook"):
                total.backward()
            with torch.inference_mode():
                made_there = z * 1
            if run is not CALLS[-1]:  # which does not keep its rows
                with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward") as error:
                    run(made_there, bank)
                assert "frame #" not in str(error.value)

    @pytest.mark.parametrize(
        ("pack", "unpack"),
        [
            (lambda x: x.transpose(0, -1).contiguous(), lambda x: x.transpose(0, -1)),
            (lambda x: x.repeat_interleave(2, 0), lambda x: x[::2]),
            (lambda x: -x, torch._neg_view),
        ],
    )
    def test_hooks_that_move_what_was_kept(self, pack: Any, unpack: Any) -> None:
        z, bank = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), PotentialBank(1, 5, dtype=torch.float64)
        for run in CALLS:
            expected = torch.autograd.grad(run(z, bank).sin().sum(), (z, bank.theta))
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                out = run(z, bank)
            torch.testing.assert_close(torch.autograd.grad(out.sin().sum(), (z, bank.theta)), expected)

    @pytest.mark.parametrize("unpack", [Tensor.float, lambda x: x[:1], lambda x: x.to("meta"), lambda x: x.reshape(-1)])
    def test_hooks_that_return_something_else(self, unpack: Any) -> None:
        z, bank = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), PotentialBank(2, 5, dtype=torch.float64)
        for run in CALLS[:-1]:
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
                out = run(z, bank, index=1)
            with pytest.raises(RuntimeError, match="hooks of saved tensors: expected a tensor as it was saved"):
                out.sum().backward()

    def test_gradients_of_a_loss_whose_hooks_share_memory(self) -> None:
        """Autograd adds to what it was given."""
        for hooks in ((lambda x: x.numpy(), torch.from_numpy), (lambda x: x, lambda x: x)):
            z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(1, 5)
            once = torch.autograd.grad(hj_loss(z, 0.5, bank), (z, bank.theta))
            with torch.autograd.graph.saved_tensors_hooks(*hooks):
                loss = hj_loss(z, 0.5, bank)
            for _ in range(4):
                loss.backward(retain_graph=True)
            torch.testing.assert_close((z.grad, bank.theta.grad), tuple(4 * x for x in once))

    def test_hooks_that_round(self) -> None:
        """As those that keep less memory do. What the engine keeps has numbers that are not activations."""
        bank = PotentialBank(1, 8)
        z = torch.randn(200, 8, requires_grad=True)
        for run in CALLS:
            expected = torch.autograd.grad(run(z, bank).sum(), (z, bank.theta))
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x.bfloat16(), lambda x: x.float()):
                out = run(z, bank)
            for a, b in zip(torch.autograd.grad(out.sum(), (z, bank.theta)), expected, strict=True):
                assert (a - b).norm() < 0.05 * b.norm()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, torch.zeros_like):
            out = CALLS[0](z, bank)
        with pytest.raises(RuntimeError, match="hooks of saved tensors: expected what was saved, up to rounding"):
            out.sum().backward()

    def test_an_input_of_a_loss_may_change(self) -> None:
        """Its gradients are there before."""
        z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(1, 5)
        (expected,) = torch.autograd.grad(hj_loss(z, 0.5, bank), z)
        rows = z * 1
        loss = hj_loss(rows, 0.5, bank)
        with torch.no_grad():
            rows.zero_()
        torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own reading
    def test_compiled_autograd(self) -> None:
        z, bank = torch.randn(6, 5, requires_grad=True), PotentialBank(2, 5)
        for potential in (0, 1):
            for run in CALLS:
                expected = torch.autograd.grad(run(z, bank, index=potential).sin().sum(), (z, bank.theta))
                z.grad = bank.theta.grad = None
                total = run(z, bank, index=potential).sin().sum()
                with compiled_autograd._enable(torch.compile(backend="eager")):
                    total.backward()
                torch.testing.assert_close((z.grad, bank.theta.grad), expected)
        with pytest.raises(RuntimeError, match=r"gradients of first order only|hj_loss with create_graph=True"):
            with compiled_autograd._enable(torch.compile(backend="eager")):
                (gradient,) = torch.autograd.grad(hj_loss(z, 0.5, bank, index=0) + (z**3).sum(), z, create_graph=True)
            torch.autograd.grad(gradient.sum(), z)

    def test_many_threads(self) -> None:
        z, bank = torch.randn(40, 16, requires_grad=True), PotentialBank(2, 16)
        index = torch.arange(40) % 2

        def run() -> tuple[Tensor, ...]:
            total = hj_loss(z, 0.5, bank, index=index) + integrate(z, [0.5, 1.0], bank, index=index).z.square().mean()
            return torch.autograd.grad(total, (z, bank.theta))

        expected, found = run(), []

        def work() -> None:
            for _ in range(50):
                found.append(run())

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 150
        for x in found:
            torch.testing.assert_close(x, expected)


class TestChoice:
    def test_another_torch_has_pythons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FFRL_FAST_NODES", raising=False)
        for built, says in (
            ("1.0", f"was built with torch 1.0, and this is {torch.__version__}"),
            (None, "not installed"),
        ):
            monkeypatch.setattr(_core, "nodes_torch", built)
            module, in_use = nodes._load()
            assert module is None and says in in_use
            monkeypatch.setenv("FFRL_FAST_NODES", "compiled")
            with pytest.raises(RuntimeError, match="FFRL_FAST_NODES=compiled: ffrl_fast was built"):
                nodes._load()
            monkeypatch.delenv("FFRL_FAST_NODES")

    def test_the_environment_forces_them(self) -> None:
        def imported(choice: str) -> subprocess.CompletedProcess[str]:
            code = "import ffrl_fast.native.nodes as n; print(n.in_use)"
            environment = {**os.environ, "FFRL_FAST_NODES": choice}
            return subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)

        assert imported("python").stdout == "Python (FFRL_FAST_NODES)\n"
        assert "FFRL_FAST_NODES: expected one of compiled, python, found 'rust'" in imported("rust").stderr
        if _core.nodes_torch == torch.__version__:
            assert imported("compiled").stdout == f"C++, compiled for torch {torch.__version__}\n"
