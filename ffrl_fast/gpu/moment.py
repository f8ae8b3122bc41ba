"""One moment of a call on a GPU engine: the networks' field, the energy and the force around it, and the gradient.

What surrounds the networks is elementwise over rows: a separable potential's u − E t and ∂_t u − E; the force's
−f = F², which reaches the residual as the engine's ``drive`` F² − E.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Engine, Forward, Gradients, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape


@dataclass(slots=True)
class Moment:
    """Rows at one moment; ``force`` goes through a bank of force networks the same way."""

    t: Tensor  # (1,) or (B,)
    rows: Rows
    force: Rows | None
    residual: bool


@dataclass(slots=True)
class MomentForward:
    """u and ∂_t u with the energy's part; what the engine found of the networks, and of the force networks."""

    u: Tensor
    dt: Tensor
    network: Forward
    force: Forward | None


@dataclass(slots=True)
class MomentGradients:
    network: Gradients
    force: Gradients | None
    t: Tensor | None  # through the energies alone; τ has its own


def _energies(rows: Rows) -> Tensor | None:
    """E of each potential (K,), of separable ones."""
    place = rows.shape.fields.get("energy")
    return None if place is None else rows.theta[:, place[0]]


def _energy_of_rows(rows: Rows) -> Tensor | None:
    """E of each row's potential (B,), or (1,) where all rows have the same."""
    energies = _energies(rows)
    if energies is None:
        return None
    if rows.gates is not None:
        return rows.gates @ energies
    if rows.index is not None:
        return energies[rows.index]
    return energies[rows.potential : rows.potential + 1]


def _sum_by_potential(of_rows: Tensor, rows: Rows) -> Tensor:
    """(B,) → (K,): each row's part goes to its potential, in an order that does not vary."""
    if rows.gates is not None:
        return of_rows @ rows.gates
    which = torch.arange(rows.theta.shape[0], device=of_rows.device)
    if rows.index is not None:
        return of_rows @ (rows.index[:, None] == which).to(of_rows.dtype)
    return of_rows.sum() * (which == rows.potential)


def forward(
    engine: Engine, moment: Moment, precision: Precision, *, keep: bool, tangent: Tensor | None = None
) -> MomentForward:
    rows, energy = moment.rows, _energy_of_rows(moment.rows)
    force = drive = None
    if moment.residual:
        drive = rows.z.new_zeros(rows.z.shape[0])
        if moment.force is not None:
            force = engine.forward(moment.force, precision, keep=keep, value_only=True)
            drive = _force_value(moment, force).square()
        if energy is not None:
            drive = drive - energy
    out = engine.forward(rows, precision, keep=keep, drive=drive, tangent=tangent)
    u, dt = out.u, out.dt
    if energy is not None:
        u, dt = u - energy * moment.t, dt - energy
    return MomentForward(u, dt, out, force)


def _force_value(moment: Moment, force: Forward) -> Tensor:
    """F (B,)."""
    assert moment.force is not None
    energy = _energy_of_rows(moment.force)
    return force.u if energy is None else force.u - energy * moment.t


def _through_energy(
    rows: Rows, t: Tensor, u_bar: Tensor | None, dt_bar: Tensor | None, found: Gradients
) -> tuple[Gradients, Tensor | None]:
    """Adds to ``found`` what reaches E and the gates through u − E t and ∂_t u − E; and the gradient of t."""
    energies, energy = _energies(rows), _energy_of_rows(rows)
    parts = [x for x in (dt_bar, None if u_bar is None else u_bar * t) if x is not None]
    if energies is None or energy is None or not parts:
        return found, None
    d_energy = -torch.stack(parts).sum(0)
    if found.theta is not None:
        found.theta[:, rows.shape.fields["energy"][0]] += _sum_by_potential(d_energy, rows)
    if found.gates is not None:
        found = found._replace(gates=found.gates + d_energy[:, None] * energies)
    if u_bar is None:
        return found, None
    d_t = -u_bar * energy
    return found, d_t.sum().reshape(1) if t.shape[0] == 1 else d_t


def _plus(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x + y


def backward(
    engine: Engine,
    moment: Moment,
    precision: Precision,
    out: MomentForward,
    cotangents: Cotangents,
    wanted: Wanted,
    wanted_force: Wanted,
) -> MomentGradients:
    network = engine.backward(moment.rows, precision, out.network, cotangents, wanted)
    dt_bar = _plus(cotangents.dt, cotangents.residual)
    network, d_t = _through_energy(moment.rows, moment.t, cotangents.u, dt_bar, network)
    if out.force is None or cotangents.residual is None:
        return MomentGradients(network, None, d_t)
    assert moment.force is not None
    force_bar = 2 * _force_value(moment, out.force) * cotangents.residual
    of_force = Cotangents(u=force_bar)
    force = engine.backward(moment.force, precision, out.force, of_force, wanted_force, value_only=True)
    force, d_t_of_force = _through_energy(moment.force, moment.t, force_bar, None, force)
    network = network._replace(z=_plus(network.z, force.z), gates=_plus(network.gates, force.gates))
    return MomentGradients(network, force, _plus(d_t, d_t_of_force))


def rows_of(
    z: Tensor,
    theta: Tensor,
    shape: list[int],
    tau: Tensor | None,
    dtau: Tensor | None,
    potential: int,
    index: Tensor | None,
    gates: Tensor | None,
) -> Rows:
    """``shape``: NetworkShape.native."""
    return Rows(z, theta, NetworkShape.from_native(z.shape[1], shape), tau, dtau, potential, index, gates)
