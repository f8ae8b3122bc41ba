"""What a GPU engine is asked and what it answers: one network family on rows, at one moment.

An engine computes the field of the networks alone. What is elementwise over rows and the same for every engine is done
outside it (:mod:`ffrl_fast.gpu.field`): the time conditioning, the energy of a separable potential, the force.

Engines allocate outputs and workspace with torch, launch on the current stream of the tensors' device and never wait
for it, so that a call can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ffrl_fast.layout import NetworkShape


class Precision(StrEnum):
    """How the products round their operands; sums and everything between the products are in float32.

    "ieee" not at all; "tf32" to 11 significant bits; "bf16" to 8.
    """

    IEEE = "ieee"
    TF32 = "tf32"
    BF16 = "bf16"


@dataclass(slots=True)
class Rows:
    """B rows and the K networks that they go through. Exactly one of ``potential``, ``index``, ``gates`` selects."""

    z: Tensor  # (B, D), unit stride within a row
    theta: Tensor  # (K, P), contiguous, NetworkShape's order
    shape: NetworkShape
    tau: Tensor | None = None  # (K or 1, B or 1, H), contiguous: the time conditioning; None: 0
    dtau: Tensor | None = None  # as tau: its derivative by t; None: 0
    potential: int = -1  # ≥ 0: this network for all rows (and tau, dtau may hold this network alone)
    index: Tensor | None = None  # (B,) int64 in 0 … K−1
    gates: Tensor | None = None  # (B, K): every row goes through all networks, the results summed by these weights


class Forward(NamedTuple):
    """u, ∂_t u (B,), ∇u (B, D); ∇²u·tangent (B, D) and the residual (B,) where asked for; and ``saved``."""

    u: Tensor
    dt: Tensor
    grad: Tensor
    hvp: Tensor | None
    residual: Tensor | None
    saved: tuple[Tensor, ...]


class Cotangents(NamedTuple):
    """Of u, ∂_t u (B,), ∇u (B, D) and the residual (B,); None: zero."""

    u: Tensor | None = None
    dt: Tensor | None = None
    grad: Tensor | None = None
    residual: Tensor | None = None


class Wanted(NamedTuple):
    """Which gradients a backward computes."""

    z: bool = True
    theta: bool = True
    tau: bool = True
    dtau: bool = True
    gates: bool = True


class Gradients(NamedTuple):
    """Each of the shape of what it belongs to, or None where not wanted.

    ``theta`` (K, P) holds those of w_in, b_in, w_hid, b_hid, w_out, b_out, and zeros elsewhere.
    """

    z: Tensor | None
    theta: Tensor | None
    tau: Tensor | None
    dtau: Tensor | None
    gates: Tensor | None


class Engine(Protocol):
    def saved(self, rows: Rows, precision: Precision) -> tuple[Tensor, ...]:
        """Empty tensors in which :meth:`forward` may keep what :meth:`backward` needs; sizes depend on shapes alone."""
        ...

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
        """The field of the rows.

        Args:
            keep: fill ``saved`` for :meth:`backward`; else it is empty.
            value_only: u alone is needed, as of a force network; dt and grad are then empty tensors of size 0.
            drive: (B,), asks for the residual ∂_t u + ½‖∇u‖² + drive.
            tangent: (D,) or (B, D), asks for ∇²u·tangent, which has no backward.
        """
        ...

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
        """The gradients by math of the module's docstring in :mod:`ffrl_fast.reference`; bitwise reproducible."""
        ...


@dataclass(slots=True)
class Path:
    """A path of N moments, z ← z + step·∇u from each to the next, by ``rows`` whose z is the start.

    ``tau`` and ``dtau`` of the rows and of the force are (K or 1, N, H); ``gates`` (B, K) or (B, N / substeps, K).
    """

    rows: Rows
    moments: int
    step: float
    substeps: int = 1  # u, ∂_t u and the residual are of every so many moments
    force: Rows | None = None  # of which theta, shape and tau are used; its square is added to the residual
    residual: bool = False


class PathForward(NamedTuple):
    """z (N + 1, B, D); u, ∂_t u and the residual (N / substeps, B), the last where asked for."""

    z: Tensor
    u: Tensor
    dt: Tensor
    residual: Tensor | None


class PathCotangents(NamedTuple):
    """Of what :class:`PathForward` holds; None: zero."""

    z: Tensor | None = None
    u: Tensor | None = None
    dt: Tensor | None = None
    residual: Tensor | None = None


class PathGradients(NamedTuple):
    """Of the start and the potentials, and of the force's parameters and τ; None where not wanted."""

    rows: Gradients
    force_theta: Tensor | None
    force_tau: Tensor | None


@runtime_checkable
class PathEngine(Engine, Protocol):
    """An engine that takes rows through a whole path in a call of its own."""

    def path_forward(self, path: Path, precision: Precision) -> PathForward:
        """The path and its outputs."""
        ...

    def path_backward(
        self, path: Path, precision: Precision, z: Tensor, cotangents: PathCotangents, wanted: Wanted
    ) -> PathGradients:
        """The gradients of a path from its z (N + 1, B, D); bitwise reproducible. z's is always computed."""
        ...
