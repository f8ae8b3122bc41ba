"""What a backend is asked, and what it is given.

These objects are made on every call. They are slotted and not frozen: a frozen dataclass takes a microsecond more.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.parametrize import type_before_parametrizations

from ffrl_fast import arguments
from ffrl_fast.arguments import Selection
from ffrl_fast.bank import PotentialBank

if TYPE_CHECKING:
    from ffrl_fast import native

#: What a request may name; ``value_and_grad`` asks as "hj_loss".
OPERATORS = ("potential_field", "hj_residual", "hj_loss", "integrate", "hessian", "laplacian", "log_det")


# Devices that torch may be asked about.
_AUTOCAST = ("cpu", "cuda")


@dataclass(slots=True)
class Request:
    """The features of a call that decide whether a backend can run it."""

    operator: str = "potential_field"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    tangent: bool = False
    sizes: tuple[int, ...] = ()  # D and the width of each network

    def replace(self, **changes: object) -> Request:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        extra = " with a tangent" if self.tangent else ""
        return f"{self.operator}{extra} in {self.dtype} on {self.device}"


class Verdict(NamedTuple):
    """Whether a backend can run a request, and why (not). Truthy when it can."""

    able: bool
    reason: str

    def __bool__(self) -> bool:
        return self.able


class Result(NamedTuple):
    """Rows of u, ∂_t u, ∇u; and where asked for ∇²u·x and the residual."""

    u: Tensor
    dt: Tensor
    grad: Tensor
    hvp: Tensor | None = None
    residual: Tensor | None = None


class HJGradients(NamedTuple):
    """Gradients of a Hamilton–Jacobi loss: of z (B, D), theta (K, P), the force's theta (K, P'), gates (B, K)."""

    z: Tensor
    theta: Tensor
    force: Tensor | None = None
    gates: Tensor | None = None


@dataclass(slots=True)
class Motion:
    """How a path moves: z ← z + step · ∇u at each of the call's moments, ``substeps`` of which make one step."""

    substeps: int
    step: float


class Path(NamedTuple):
    """z (T+1, B, D); u, ∂_t u, and where asked for the residual (T, B) at the start of each step and its row sum."""

    z: Tensor
    u: Tensor
    dt: Tensor
    residual: Tensor | None = None
    row_sum: Tensor | None = None
    log_det: Tensor | None = None


@dataclass(slots=True)
class Call:
    """One checked evaluation: rows ``z`` (B, D), which potentials, and what to compute.

    ``t`` is (1,) or (B,); of a path its N moments, and ``selection.gates`` may then be (B, T, K).
    """

    z: Tensor
    t: Tensor
    bank: PotentialBank
    selection: Selection
    force: PotentialBank | None = None
    tangent: Tensor | None = None
    with_residual: bool = False
    with_row_sum: bool = False
    with_log_det: bool = False
    #: The plan of a call like this one before, and this one's tensors (ffrl_fast/calls.py).
    prepared: tuple[native.Plan, native.Given] | None = None

    def request(self, operator: str) -> Request:
        z, shape = self.z, self.bank.shape
        sizes = (shape.dim, shape.width) if self.force is None else (shape.dim, shape.width, self.force.shape.width)
        return Request(operator, z.device.type, z.dtype, self.tangent is not None, sizes)

    def of_force(self) -> Call:
        """The same rows through the force network."""
        assert self.force is not None
        return dataclasses.replace(self, bank=self.force, force=None, tangent=None, with_residual=False, prepared=None)

    def of_rows(self, start: int, stop: int) -> Call:
        """Some of the rows, at one moment."""
        selection, times = self.selection, self.t
        rows = slice(start, stop)
        index = None if selection.index is None else selection.index[rows]
        gates = None if selection.gates is None else selection.gates[rows]
        return dataclasses.replace(
            self,
            z=self.z[rows],
            t=times if times.shape[0] == 1 else times[rows],
            selection=Selection(selection.potential, index, gates),
            prepared=None,
        )

    def of_moment(self, moment: int, z: Tensor, substeps: int) -> Call:
        """One moment of a path, reached at ``z``; only the field."""
        return dataclasses.replace(
            self,
            z=z,
            t=self.t[moment : moment + 1],
            selection=self.selection.at_step(moment // substeps),
            with_residual=False,
            with_row_sum=False,
            with_log_det=False,
            prepared=None,
        )

    def conditioning(self, bank: PotentialBank) -> tuple[Tensor | None, Tensor | None]:
        """τ and dτ/dt of ``bank`` at this call's times, of the one potential alone where only one is used.

        Each (K or 1, R, H) in the bank's dtype, or None where it is 0. Autocast would make them of another.
        """
        one = self.selection.potential
        with without_autocast(self.z.device.type):
            found = bank.conditioning(self.t, one if one >= 0 else None)
        return arguments.check_conditioning(found, bank, self.z, self.t, one) if bank.has_own_conditioning else found


class Backend(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def automatic(self) -> bool:
        """Whether it may be chosen without being named."""
        ...

    def can_run(self, request: Request) -> Verdict: ...

    def plan(self, call: Call, motion: Motion | None = None) -> native.Plan | None:
        """What it needs not work out again for a call of the same sizes, strides and dtypes; None: nothing."""
        ...

    def field(self, call: Call) -> Result: ...

    def path(self, call: Call, motion: Motion) -> Path: ...

    def hj_loss(self, call: Call, weight: Tensor | None) -> Tensor: ...

    def hj_value_and_grad(self, call: Call, weight: Tensor | None) -> tuple[Tensor, HJGradients]: ...

    def hessian(self, call: Call) -> Tensor: ...

    def laplacian(self, call: Call) -> Tensor: ...

    def log_det(self, call: Call, step: float) -> tuple[Tensor, Tensor]:
        """log|det(I + step ∇²u)| and the sign of the determinant, each (B,)."""
        ...


def path_log_det(backend: Backend, call: Call, motion: Motion, z: Tensor) -> Tensor:
    """Σ log|det(I + step ∇²u)| (T, B) over the moments of each step of a path (N + 1, B, D), one call a moment."""
    found: list[Tensor] = []
    for moment in range(call.t.shape[0]):
        value, _ = backend.log_det(call.of_moment(moment, z[moment], motion.substeps), motion.step)
        found.append(value if moment % motion.substeps == 0 else found.pop() + value)
    return torch.stack(found) if found else z.new_zeros(0, z.shape[1])


def hj_value_and_grad_by_autograd(backend: Backend, call: Call, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
    """The value of ``backend.hj_loss`` and its gradients, by ``torch.autograd``, whatever requires a gradient."""
    selection, force = call.selection, call.force
    given = {"z": call.z, "theta": call.bank.theta}
    # One tensor that is the potential's and the force's has one gradient.
    of_force = "theta" if force is not None and force.theta is call.bank.theta else "force"
    if force is not None:
        given[of_force] = force.theta
    if selection.gates is not None:
        given["gates"] = selection.gates

    def loss(of: dict[str, Tensor], t: Tensor, weight: Tensor | None) -> Tensor:
        same = dataclasses.replace(
            call,
            z=of["z"],
            t=t,
            bank=_with_theta(call.bank, of["theta"]),
            force=None if force is None else _with_theta(force, of[of_force]),
            selection=Selection(selection.potential, selection.index, of.get("gates")),
            prepared=None,
        )
        return backend.hj_loss(same, weight)

    def named(gradients: dict[str, Tensor]) -> HJGradients:
        shared = None if force is None else gradients[of_force]
        return HJGradients(gradients["z"], gradients["theta"], shared, gradients.get("gates"))

    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if transformed or forward_ad._current_level >= 0:
        # A function transform may differentiate them again.
        with nullcontext() if transformed else torch.no_grad():
            gradients, value = torch.func.grad_and_value(loss)(given, call.t, weight)
        return value, named(gradients)

    def normal(x: Tensor) -> Tensor:
        return x.clone() if x.is_inference() else x

    with torch.inference_mode(False), torch.enable_grad():
        leaves = {name: normal(x).detach().requires_grad_() for name, x in given.items()}
        value = loss(leaves, normal(call.t), None if weight is None else normal(weight))
        with without_autocast(call.z.device.type):
            found = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), named(dict(zip(leaves, found, strict=True)))


def _with_theta(bank: PotentialBank, theta: Tensor) -> PotentialBank:
    """The same bank with other parameters, also where its own are computed from others."""
    same: PotentialBank = object.__new__(type_before_parametrizations(bank))
    same.__dict__.update(bank.__dict__)
    same.__dict__.pop("theta", None)
    same._parameters = {**bank._parameters, "theta": theta}  # type: ignore[dict-item]
    return same


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Nothing is cast: neither what is computed nor its gradients."""
    casts = device in _AUTOCAST and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if casts else nullcontext()
