"""The operators' kernels in C++, as a compiled graph reaches them, against those in Python: the same bits."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cases import Case, cases, make
from ffrl_fast import PotentialBank, hj_loss, hj_residual, integrate, potential_field
from ffrl_fast.native import dispatch, nodes
from ffrl_fast.native.problem import KEPT_LAYOUT

pytestmark = pytest.mark.skipif(nodes.compiled is None, reason=nodes.in_use)

_NAMES = ("field", "field_backward", "hj_loss")
_TAPE, _PACKED = 7, 8  # places among the outputs of the field


@contextmanager
def _kernels_in_python() -> Iterator[list[str]]:
    """Those that are called within the block by this thread."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            found.append(frame.f_code.co_name)

    codes = {dispatch._CPU[name].__code__ for name in _NAMES}
    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)


def _tensors(of: Any) -> list[Tensor]:
    return [of] if isinstance(of, Tensor) else [x for part in of for x in _tensors(part)]


def _assert_same(name: str, ours: Any, expected: Any) -> None:
    a, b = _tensors(ours), _tensors(expected)
    assert len(a) == len(b)
    for place, (x, y) in enumerate(zip(a, b, strict=True)):
        if name == "field" and place in (_TAPE, _PACKED):  # not all of it is written
            assert x.shape == y.shape and x.dtype == y.dtype
        else:
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


class _Beside(TorchDispatchMode):
    """Runs every operator of ours by both kernels. in_python: how many of the calls C++ left to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.in_python = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("ffrl_fast::")
        if name not in _NAMES:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        with _kernels_in_python() as found:
            ours = func(*args)
        self.in_python += bool(found)
        _assert_same(name, ours, dispatch._CPU[name](*args))
        if name == "field_backward":  # without what the forward kept
            *given, path, tape, packed, wanted = args
            again = (*given, path, tape.new_empty(0), packed.new_empty(0), wanted)
            _assert_same(name, func(*again), dispatch._CPU[name](*again))
        return ours


@given(case=cases(max_rows=60, max_size=40))
def test_the_same_bits(case: Case) -> None:
    torch.manual_seed(case.seed)
    inputs = make(case)
    z, t, bank, force, of = inputs.z, inputs.t, inputs.bank, inputs.force, inputs.selection
    tangent = torch.ones_like(z.detach()).requires_grad_()
    times = torch.tensor([0.5, 1.5], dtype=z.dtype, requires_grad=True)
    beside = _Beside()
    with beside:
        field = potential_field(z, t, bank, tangent=tangent, **of)
        (field.hvp.sum() + field.u.sum()).backward()
        hj_residual(z, t, bank, force=force, **of).residual.square().sum().backward()
        for weight in (None, torch.rand(case.rows, dtype=z.dtype).requires_grad_()):
            (3 * hj_loss(z, t, bank, force=force, weight=weight, **of)).backward()
        path = integrate(z, times, bank, force=force, substeps=2, outputs=("dt", "residual", "row_sum"), **of)
        assert path.residual is not None and path.row_sum is not None
        (path.z[1:].square().sum() + path.residual.sum() + path.row_sum.sum()).backward()
    assert beside.calls == 8
    assert beside.in_python == (8 if case.rows == 0 else 0)


def _arguments(z: Tensor, bank: PotentialBank, index: Tensor | None = None, potential: int = -1) -> tuple[Any, ...]:
    """Of the three operators: those that they have in common."""
    plain = (potential, list(bank.shape.native), True, False, False, 0, 0.0)
    return (z, torch.tensor([0.5]), bank.theta.detach(), None, None, None, None, index, None, None, *plain)


def _call(name: str, z: Tensor, bank: PotentialBank, **changes: Any) -> tuple[Any, list[str]]:
    """The operator `name` by the dispatcher, and which kernels in Python took part."""
    given = _arguments(z, bank, potential=0)
    wanted = [x is not None for x in (*given[:7], *given[8:10])]
    if name == "field":
        args: tuple[Any, ...] = (*given, KEPT_LAYOUT)
    elif name == "hj_loss":
        args = (*given, changes.get("weight"), [*wanted, changes.get("weight") is not None])
    else:
        *_, tape, packed = torch.ops.ffrl_fast.field(*given, KEPT_LAYOUT)
        bar = changes.get("bar", torch.ones(z.shape[0]))
        args = (*given, bar, None, None, None, None, None, None, changes.get("tape", tape), packed, wanted)
    with _kernels_in_python() as found:
        ours = getattr(torch.ops.ffrl_fast, name)(*args)
    _assert_same(name, ours, dispatch._CPU[name](*args))
    return ours, found


@pytest.mark.parametrize("name", _NAMES)
def test_python_takes_what_does_not_lie_as_the_engine_reads_it(name: str) -> None:
    z, bank = torch.randn(9, 6), PotentialBank(2, 6)
    assert _call(name, z, bank)[1] == []
    wide = torch.randn(9, 20)
    assert _call(name, wide[:, 3:9], bank)[1] == []  # rows of unit stride are read where they lie
    assert _call(name, wide.T[:9, :6], bank)[1] == []  # others are copied
    assert _call(name, torch.randn(0, 6), bank)[1] != []
    strided = PotentialBank(2, 6)
    strided.theta.data = strided.theta.data.T.contiguous().T
    assert _call(name, z, strided)[1] != []


def test_cotangents_and_weights_may_lie_anyhow() -> None:
    z, bank = torch.randn(9, 6), PotentialBank(2, 6)
    (plain, *_), found = _call("field_backward", z, bank, bar=torch.full((9,), -1.0))
    assert found == []
    (expanded, *_), found = _call("field_backward", z, bank, bar=torch.tensor(-1.0).expand(9))
    assert found == []
    assert torch.equal(plain, expanded)
    assert _call("hj_loss", z, bank, weight=torch.rand(18)[::2])[1] == []


@pytest.mark.parametrize("name", ["field", "hj_loss"])
def test_errors_are_those_of_python(name: str) -> None:
    bank = PotentialBank(2, 6)
    index = torch.tensor([0, 1, 2])
    given = _arguments(torch.randn(3, 6), bank, index)
    rest: tuple[Any, ...] = (KEPT_LAYOUT,) if name == "field" else (None, [True] + 9 * [False])
    with pytest.raises(IndexError, match=r"index: expected values in 0 … 1, found 2 in row 2"):
        getattr(torch.ops.ffrl_fast, name)(*given, *rest)
    times = torch.rand(3)
    with pytest.raises(ValueError, match="tau: where every row has a time of its own"):
        getattr(torch.ops.ffrl_fast, name)(given[0], times, *given[2:7], index.clamp(max=1), *given[8:], *rest)
    with pytest.raises(KeyError, match=r"torch\.float16"):
        getattr(torch.ops.ffrl_fast, name)(given[0].half(), *given[1:], *rest)


def test_a_gradient_is_never_silently_zero() -> None:
    """An operator reached without its Function has one, and an error where it is asked for a second time."""
    z, bank = torch.randn(9, 6, requires_grad=True), PotentialBank(2, 6)
    u = torch.ops.ffrl_fast.field(*_arguments(z, bank, potential=0), KEPT_LAYOUT)[0]
    expected = torch.autograd.grad(potential_field(z, 0.5, bank, index=0).u.sum(), z)
    torch.testing.assert_close(torch.autograd.grad(u.sum(), z, retain_graph=True), expected, rtol=0, atol=0)
    (first,) = torch.autograd.grad(u.sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of first order only"):
        first.sum().backward()


def test_nothing_is_kept_alive() -> None:
    z, bank = torch.randn(9, 6), PotentialBank(2, 6)
    references = []
    for name in _NAMES:
        ours, _ = _call(name, z, bank)
        references += [weakref.ref(x) for x in _tensors(ours)]
    references.append(weakref.ref(z))
    del z, ours
    assert [x() for x in references] == [None] * len(references)


def test_threads_that_meet_new_sizes_together() -> None:
    bank = PotentialBank(2, 6)
    expected = {rows: _call("field", torch.ones(rows, 6), bank)[0][0] for rows in range(1, 200, 7)}
    wrong: list[int] = []

    def work(start: int) -> None:
        for rows in [*range(start, 200), *range(1, start)]:
            found = torch.ops.ffrl_fast.field(*_arguments(torch.ones(rows, 6), bank, potential=0), KEPT_LAYOUT)[0]
            if rows in expected and not torch.equal(found, expected[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(start,)) for start in (1, 60, 120)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
