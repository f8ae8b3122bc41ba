"""τ and dτ/dt of the bank's own making, or made under autocast: right, or an error before the engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffrl_fast import PotentialBank, hj_loss, integrate, laplacian, potential_field, value_and_grad

K, D, H, B = 3, 6, 10, 20


class Own(PotentialBank):
    """τ = sin(t) w, by `form` of all potentials or the one, at all times or one row for them."""

    def __init__(self, form: Callable[..., Any] = lambda tau, dtau, one: (tau, dtau)) -> None:
        super().__init__(K, D, H)
        self.w, self.form = nn.Parameter(torch.randn(K, 1, H)), form

    def conditioning(self, t: Tensor, potential: int | None = None) -> Any:
        w = self.w if potential is None else self.w[potential : potential + 1]
        return self.form(torch.sin(t)[:, None] * w, torch.cos(t)[:, None] * w, self)


class ByLinear(PotentialBank):
    """τ = W (t, 1), by a module that autocast casts."""

    def __init__(self) -> None:
        super().__init__(K, D, H)
        self.linear = nn.Linear(1, K * H)

    def conditioning(self, t: Tensor, potential: int | None = None) -> tuple[Tensor, Tensor]:
        tau = self.linear(t[:, None]).unflatten(1, (K, H)).transpose(0, 1)
        return tau, self.linear.weight.view(K, 1, H).expand(-1, t.shape[0], -1)


def _all(
    bank: PotentialBank,
    times: float | Tensor,
    of: dict[str, Any],
    backend: str | None = None,
    cast: tuple[bool, bool] = (False, False),
) -> list[Tensor]:
    """Values and gradients of every operator. cast: whether under autocast, forward and backward."""
    torch.manual_seed(1)
    z = torch.randn(B, D, requires_grad=True)
    index = of["index"]
    found: list[Tensor] = []
    for total in (
        lambda: potential_field(z, times, bank, index=index, backend=backend),
        lambda: hj_loss(z, times, bank, index=index, backend=backend),
        lambda: laplacian(z, times, bank, index=index, backend=backend),
        lambda: integrate(z, [0.1, 0.2, 0.4], bank, index=index, backend=backend, outputs=("dt", "residual")),
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast[0]):
            out = total()
        parts = [x for x in out if x is not None] if isinstance(out, tuple) else [out]
        whole = sum(x.square().sum() for x in parts)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast[1]):
            grads = torch.autograd.grad(whole, [z, *bank.parameters()], allow_unused=True)
        found += [*(x.detach() for x in parts), *(torch.zeros(()) if x is None else x for x in grads)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast[0]):
        value, gradients = value_and_grad(z, times, bank, index=index, backend=backend)
    return [*found, value, gradients.z, gradients.theta]


ROWS = torch.arange(B) % K
SELECTED = [{"index": 1}, {"index": ROWS}]
TIMES: list[Any] = [0.4, torch.linspace(0.1, 1.0, B)]


def _assert_close(found: list[Tensor], exact: list[Tensor]) -> None:
    assert len(found) == len(exact)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("make", [lambda: PotentialBank(K, D, H), ByLinear])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("of", SELECTED)
def test_nothing_is_cast_under_autocast(make: Callable[[], PotentialBank], times: Any, of: dict[str, Any]) -> None:
    bank = make()
    exact = _all(bank, times, of)
    # What torch itself does in a backward under autocast, to τ's graph, is not ours.
    within = not bank.has_own_conditioning and isinstance(times, float)
    for cast in ((True, False), *([(True, True)] if within else [])):
        for a, b in zip(_all(bank, times, of, cast=cast), exact, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_nothing_is_cast_under_autocast_by_vmap_and_compile() -> None:
    bank, z, times = PotentialBank(K, D, H), torch.randn(4, 5, D), torch.rand(4)

    def mapped() -> Tensor:
        return torch.func.vmap(lambda z, t: potential_field(z, t, bank, index=0).dt)(z, times)

    def by_rows() -> Tensor:
        return potential_field(z[:, 0], times, bank, index=0).dt

    exact = mapped(), by_rows()
    compiled = torch.compile(by_rows, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mapped(), compiled()
    torch.testing.assert_close(found, exact, rtol=0, atol=0)


FORMS: list[Callable[..., Any]] = [
    lambda tau, dtau, one: (tau, dtau),
    lambda tau, dtau, bank: (tau + 0 * bank.w, dtau + 0 * bank.w),  # of all potentials where one is asked for
    lambda tau, dtau, bank: (bank.w, torch.zeros_like(bank.w)),  # one row for all times
    lambda tau, dtau, one: (tau, None),
    lambda tau, dtau, one: (None, None),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("of", SELECTED)
def test_every_form_that_the_docs_allow(form: Callable[..., Any], times: Any, of: dict[str, Any]) -> None:
    torch.manual_seed(0)
    bank = Own(form)
    # Memory that is used again: what is not written would show.
    junk = [torch.full(shape, 1e6) for shape in ((K, 1, H), (K, B, H), (K, 3, H), (1, B, H)) for _ in range(50)]
    del junk
    _assert_close(_all(bank, times, of), _all(bank, times, of, "reference"))


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (lambda tau, dtau, _: tau, TypeError, "Own.conditioning: expected τ and dτ/dt, found Tensor"),
        (lambda tau, dtau, _: (tau[..., :3], dtau), ValueError, "τ: expected shape (3, 20, 10), found (3, 20, 3)"),
        (lambda tau, dtau, _: (tau, dtau[:2]), ValueError, "dτ/dt: expected shape (3, 20, 10), found (2, 20, 10)"),
        (lambda tau, dtau, _: (tau, dtau[:, :7]), ValueError, "dτ/dt: expected shape (3, 20, 10), found (3, 7, 10)"),
        (lambda tau, dtau, _: (tau[0], dtau), ValueError, "τ: expected shape (3, 20, 10), found (20, 10)"),
        (lambda tau, dtau, _: (tau.double(), dtau), TypeError, "τ: expected dtype torch.float32 as the bank's"),
        (
            lambda tau, dtau, _: (tau, dtau.to("meta")),
            ValueError,
            "dτ/dt: expected device cpu as the bank's, found meta",
        ),
        (lambda tau, dtau, _: (tau.to_sparse(), dtau), TypeError, "τ: expected a strided tensor"),
        (lambda tau, dtau, _: (tau, 0.0), TypeError, "dτ/dt: expected a tensor or None, found float"),
        (lambda tau, dtau, _: (None, dtau), ValueError, "expected dτ/dt None where τ is, found a tensor"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_others_are_errors(form: Callable[..., Any], error: type[Exception], message: str, backend: str) -> None:
    bank, z = Own(form), torch.randn(B, D)
    with pytest.raises(error) as caught:
        potential_field(z, TIMES[1], bank, index=ROWS, backend=backend)
    assert message in str(caught.value)
    if backend == "cpu":  # the reference asks for one moment after the other
        with pytest.raises(error, match=r"Own\.conditioning: "):
            integrate(z, TIMES[1], bank, index=ROWS, backend=backend)
