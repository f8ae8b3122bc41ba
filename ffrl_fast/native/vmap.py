"""What the vmap rules of the native operators share: mapped rows become rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ffrl_fast import reference
from ffrl_fast.backends.interface import without_autocast
from ffrl_fast.layout import NetworkShape
from ffrl_fast.native.problem import SINUSOIDAL, Inputs


def front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """x with the mapped dimension first; repeated along it where it was not mapped."""
    return x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)


def rows_of_each(z: Tensor, dim: int | None) -> int:
    """How many rows a mapped element has, of however many elements."""
    return z.shape[0 if dim is None or dim % z.dim() > 0 else 1]


def conditioning_of_rows(
    t: Tensor, theta: Tensor, potential: int, dim: int, shape: list[int]
) -> tuple[Tensor | None, Tensor | None]:
    """τ and dτ/dt where every row has its own time ``t`` (B,): in plain PyTorch, differentiable."""
    width, depth, _, time = shape
    if time != SINUSOIDAL:
        return None, None
    theta = theta if potential < 0 else theta[potential : potential + 1]
    with without_autocast(t.device.type):
        return reference.conditioning(t, theta, NetworkShape(dim, width, depth, time_embedding="sinusoidal"))


def fold(inputs: Inputs, in_dims: tuple[Any, ...], size: int) -> Inputs:
    """Mapped rows become rows: (N, B, D) → (N·B, D), and so for all that belongs to a row.

    Raises:
        NotImplementedError: where parameters are mapped; a bank's K potentials are the engine's own batch of networks.
            So too where the moments of a path are mapped.
    """
    dims: Any = Inputs(*in_dims)
    if dims.theta is not None or dims.force_theta is not None:
        raise NotImplementedError(
            "vmap over a bank's parameters is not supported by the native backends; use one PotentialBank with "
            "num_potentials networks and an index per row, or backend='reference'"
        )
    conditioned = any(x is not None for x in (dims.t, dims.tau, dims.dtau, dims.force_tau))
    if inputs.substeps and conditioned:
        raise NotImplementedError(
            "vmap over the times of a path is not supported by the native backends; use backend='reference'"
        )
    z = front(inputs.z, dims.z, size)
    _, rows, dim = z.shape
    own_tangent = inputs.tangent is not None and inputs.tangent.dim() - (dims.tangent is not None) == 2
    shared = bool(inputs.substeps) or (not conditioned and inputs.t.shape[0] == 1)

    def conditioning(x: Tensor | None, dim: Any) -> Tensor | None:
        if x is None or shared:
            return x
        # (N, K, 1 or B, H) → (K, N·B, H)
        return front(x, dim, size).expand(-1, -1, rows, -1).movedim(0, 1).flatten(1, 2)

    def rowwise(x: Tensor | None, dim: Any) -> Tensor | None:
        return None if x is None else front(x, dim, size).flatten(0, 1)

    tangent = inputs.tangent
    if own_tangent:
        tangent = rowwise(tangent, dims.tangent)
    elif tangent is not None and dims.tangent is not None:
        tangent = front(tangent, dims.tangent, size).repeat_interleave(rows, 0)
    t = inputs.t if shared else front(inputs.t, dims.t, size).expand(-1, rows).flatten()
    tau, dtau = conditioning(inputs.tau, dims.tau), conditioning(inputs.dtau, dims.dtau)
    force_tau = conditioning(inputs.force_tau, dims.force_tau)
    if not shared:
        # The one time of each element is now a time of each of its rows.
        if tau is None:
            tau, dtau = conditioning_of_rows(t, inputs.theta, inputs.potential, dim, inputs.shape[:4])
        if inputs.force_theta is not None and force_tau is None:
            of_force = (inputs.force_theta, inputs.potential, dim, inputs.shape[4:])
            force_tau = conditioning_of_rows(t, *of_force)[0]
    return inputs._replace(
        z=z.flatten(0, 1),
        t=t,
        tau=tau,
        dtau=dtau,
        force_tau=force_tau,
        index=rowwise(inputs.index, dims.index),
        gates=rowwise(inputs.gates, dims.gates),
        tangent=tangent,
    )


def each_element(info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> list[list[Any]]:
    """The arguments of every mapped element."""
    return [
        [
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(args, in_dims, strict=True)
        ]
        for i in range(info.batch_size)
    ]
