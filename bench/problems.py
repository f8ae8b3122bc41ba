"""What is timed: one potential on B rows, and a loss of its ∂_t u and ∇u with the gradients of all it depends on.

Work, always with gradients of z and of every weight unless it says otherwise:

==========  =============================================================================
forward     u, ∂_t u and ∇u; no gradients
operator    ⟨t̄, ∂_t u⟩ + ⟨ḡ, ∇u⟩, t̄ and ḡ given: the operator and its backward alone
step        mean r² + ⟨ḡ, ∇u⟩ with r = ∂_t u + ½‖∇u‖²: the step of training
loss        mean r² alone
==========  =============================================================================

``time`` says where τ(t) and dτ/dt come from. "learned": from the potential's own two layers, whose gradients belong to
the work. "given": they are inputs like z, with gradients of their own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ffrl_fast import PotentialBank

Work = Literal["forward", "operator", "step", "loss"]
Time = Literal["learned", "given"]
WORKS: tuple[Work, ...] = get_args(Work)

CORE = ("w_in", "b_in", "w_hid", "b_hid", "w_out", "b_out")
TIME_LAYERS = ("w_time1", "b_time1", "w_time2", "b_time2")
GIVEN = ("tau", "dtau")


class GivenTimeBank(PotentialBank):
    """A bank whose conditioning is given by the caller: τ and dτ/dt (1, 1, H) are parameters of their own."""

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)
        self.tau = torch.nn.Parameter(torch.empty(1, 1, dim))
        self.dtau = torch.nn.Parameter(torch.empty(1, 1, dim))

    def conditioning(self, t: Tensor, potential: int | None = None) -> tuple[Tensor, Tensor]:
        return self.tau, self.dtau


@dataclass
class Problem:
    """Inputs of one size. ``leaves`` are separate tensors, as a user's layers are; ``bank`` holds the same values."""

    dim: int
    rows: int
    time: Time = "learned"
    dtype: torch.dtype = torch.float32
    seed: int = 0
    bank: PotentialBank = field(init=False)
    t: Tensor = field(init=False)
    leaves: dict[str, Tensor] = field(init=False)
    dt_bar: Tensor = field(init=False)
    grad_bar: Tensor = field(init=False)

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        # All is drawn in float32, so that every dtype is asked the same question.
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(self.dtype)

        bank = PotentialBank(1, self.dim) if self.time == "learned" else GivenTimeBank(self.dim)
        bank.reset_parameters(g)
        # Half as wide again as the usual start, so that no layer is nearly linear.
        bank.theta.data.mul_(1.5)
        bank.to(self.dtype)
        self.bank, self.t = bank, torch.full((1,), 0.5, dtype=self.dtype)
        views = bank.weights()._asdict()
        leaves = {"z": normal(self.rows, self.dim)}
        leaves |= {name: views[name][0] for name in CORE}
        leaves["w_hid"], leaves["b_hid"] = leaves["w_hid"][0], leaves["b_hid"][0]
        if isinstance(bank, GivenTimeBank):
            leaves |= {name: normal(1, self.dim) for name in GIVEN}
            bank.tau.data.copy_(leaves["tau"][None])
            bank.dtau.data.copy_(leaves["dtau"][None])
        else:
            leaves |= {name: views[name][0] for name in TIME_LAYERS}
        self.leaves = {n: x.detach().clone().contiguous().requires_grad_() for n, x in leaves.items()}
        self.dt_bar = normal(self.rows) / max(1, self.rows)
        self.grad_bar = normal(self.rows, self.dim) / max(1, self.rows)

    def to(self, device: str) -> Problem:
        """The same problem with everything on ``device``."""
        return _moved(self, device)

    @property
    def detached(self) -> list[Tensor]:
        """The leaves without autograd, for code that has its own gradients."""
        return [x.detach() for x in self.leaves.values()]

    def objective(self, work: Work, dt: Any, grad: Any, dt_bar: Any = None, grad_bar: Any = None) -> Any:
        """The scalar whose gradients are asked for; of torch or, with their cotangents passed, of JAX arrays."""
        dt_bar = self.dt_bar if dt_bar is None else dt_bar
        grad_bar = self.grad_bar if grad_bar is None else grad_bar
        if work == "operator":
            return (dt_bar * dt).sum() + (grad_bar * grad).sum()
        residual = dt + 0.5 * (grad * grad).sum(1)
        mean_square = (residual * residual).mean()
        return mean_square if work == "loss" else mean_square + (grad_bar * grad).sum()

    def products(self, work: Work) -> int:
        """Products of B×D×H that the work cannot do without: four forward and eight backward."""
        return 4 if work == "forward" else 12

    def flops(self, work: Work) -> float:
        """2·B·H·D operations a product; nothing else is counted."""
        return 2.0 * self.products(work) * self.rows * self.dim * self.dim

    @property
    def least_bytes(self) -> float:
        """Bytes that the step cannot do without: z and ḡ in, dL/dz out; the weights in and their gradients out."""
        weights = self.bank.theta.numel()
        return float(self.dtype.itemsize * (3 * self.rows * self.dim + 2 * weights))

    def named(self, work: Work, result: Any) -> dict[str, Tensor]:
        """A variant's result as float64 tensors by name: ``value`` (where it has one) and a gradient of each leaf."""
        if work == "forward":
            return {n: _double(x) for n, x in zip(("u", "dt", "grad"), result, strict=True)}
        value, gradients = result
        found = {} if value is None else {"value": _double(value).reshape(())}
        return found | {n: _double(x) for n, x in zip(self.leaves, gradients, strict=True)}

    def split_theta(self, gradient: Tensor) -> list[Tensor]:
        """A gradient of ``bank.theta`` as gradients of the leaves that lie in it, in their order."""
        views = self.bank.shape.unpack(gradient)._asdict()
        names = [n for n in self.leaves if n not in ("z", *GIVEN)]
        return [views[n][0].reshape(self.leaves[n].shape) for n in names]


def _moved(problem: Any, device: str) -> Any:
    """A copy whose tensors, dictionaries of tensors and modules are on ``device``."""
    moved = copy.copy(problem)
    for name, value in vars(problem).items():
        if isinstance(value, (Tensor, torch.nn.Module)):
            value = copy.deepcopy(value).to(device)
        elif isinstance(value, dict):
            value = {n: x.detach().to(device).requires_grad_() for n, x in value.items()}
        setattr(moved, name, value)
    return moved


def _double(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().double().cpu()
    import numpy as np

    return torch.from_numpy(np.array(x, dtype=np.float64))


@dataclass
class FlowProblem:
    """T Euler steps z ← z + ∇u^k(z, t_i), t_i = 1 … T, of K potentials, one of them chosen for all rows.

    The value is the mean of r² over steps and rows plus ⟨z̄, z_T⟩; gradients of z_0 and of the chosen potential's
    weights, and those of its force network where there is one. ``index`` (B,) instead sends each row its own way.
    """

    dim: int
    rows: int
    steps: int = 8
    potentials: int = 3
    chosen: int = 1
    with_force: bool = False
    dtype: torch.dtype = torch.float32
    seed: int = 0
    bank: PotentialBank = field(init=False)
    force: PotentialBank | None = field(init=False)
    leaves: dict[str, Tensor] = field(init=False)
    times: Tensor = field(init=False)
    index: Tensor = field(init=False)
    end_bar: Tensor = field(init=False)

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        def bank() -> PotentialBank:
            made = PotentialBank(self.potentials, self.dim)
            made.reset_parameters(g)
            return made.to(self.dtype)

        def leaves(of: PotentialBank, prefix: str) -> dict[str, Tensor]:
            views = of.weights()._asdict()
            found = {prefix + n: views[n][self.chosen] for n in (*CORE, *TIME_LAYERS)}
            for n in ("w_hid", "b_hid"):
                found[prefix + n] = found[prefix + n][0]
            return found

        self.bank = bank()
        self.force = bank() if self.with_force else None
        found = {"z": torch.randn(self.rows, self.dim, generator=g).to(self.dtype)} | leaves(self.bank, "")
        if self.force is not None:
            found |= leaves(self.force, "force_")
        self.leaves = {n: x.detach().clone().contiguous().requires_grad_() for n, x in found.items()}
        self.times = torch.arange(1, self.steps + 1, dtype=self.dtype)
        self.index = torch.randint(0, self.potentials, (self.rows,), generator=g)
        self.end_bar = torch.randn(self.rows, self.dim, generator=g).to(self.dtype) / max(1, self.rows)

    def to(self, device: str) -> FlowProblem:
        """As :meth:`Problem.to`."""
        return _moved(self, device)

    def flops(self) -> float:
        """30·B·H·D a step: 12 products and 3 once more to recompute activations; 12·B·H·D for a force network.

        The same count for all, so that fractions of peak compare, though code that keeps its activations does less.
        """
        return (42.0 if self.with_force else 30.0) * self.steps * self.rows * self.dim * self.dim

    @property
    def least_bytes(self) -> float:
        """z_0 and z̄ in, z_1 … z_T out and in again, dL/dz_0 out; the chosen weights in and their gradients out."""
        weights = self.bank.theta.shape[1] * (2 if self.with_force else 1)
        return float(self.dtype.itemsize * ((2 * self.steps + 3) * self.rows * self.dim + 2 * weights))

    def named(self, result: Any) -> dict[str, Tensor]:
        """As :meth:`Problem.named`."""
        value, gradients = result
        found = {"value": _double(value).reshape(())}
        return found | {n: _double(x) for n, x in zip(self.leaves, gradients, strict=True)}

    def split_theta(self, gradient: Tensor) -> list[Tensor]:
        """The gradient of a bank's or force's theta as gradients of the chosen network's leaves."""
        views = self.bank.shape.unpack(gradient)._asdict()
        found = [views[n][self.chosen] for n in (*CORE, *TIME_LAYERS)]
        return [x[0] if n in ("w_hid", "b_hid") else x for n, x in zip((*CORE, *TIME_LAYERS), found, strict=True)]
