"""A path on an engine that goes through all moments in one call, the energies of separable potentials around it.

The engine adds the square of the force network itself; a separable force, whose value has an energy of its own, it
does not know, and such a path goes moment by moment (:mod:`ffrl_fast.gpu.path`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Path, PathCotangents, PathEngine, PathForward, Precision, Rows, Wanted
from ffrl_fast.gpu.moment import rows_of
from ffrl_fast.gpu.path import OperatorGradients
from ffrl_fast.native.problem import Inputs


def serves(i: Inputs) -> bool:
    """Whether there is a path to go, and nothing on it that the engine does not know."""
    force = None if i.force_theta is None else rows_of(i.z, i.force_theta, i.shape[4:], None, None, 0, None, None)
    return i.moments > 0 and i.z.shape[0] > 0 and (force is None or "energy" not in force.shape.fields)


def _path(i: Inputs) -> Path:
    def contiguous(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.contiguous()

    z = i.z if i.z.stride(1) == 1 or i.z.shape[1] == 1 else i.z.contiguous()
    which = (i.potential, i.index, contiguous(i.gates))
    rows = rows_of(z, i.theta.contiguous(), i.shape[:4], contiguous(i.tau), contiguous(i.dtau), *which)
    force = None
    if i.force_theta is not None:
        force = rows_of(z, i.force_theta.contiguous(), i.shape[4:], contiguous(i.force_tau), None, *which)
    return Path(rows, i.moments, i.step, i.substeps, force if i.residual else None, i.residual)


def _energies(rows: Rows) -> Tensor | None:
    """E of each potential (K,), of separable ones."""
    place = rows.shape.fields.get("energy")
    return None if place is None else rows.theta[:, place[0]]


def _weights(rows: Rows) -> Tensor:
    """By how much each potential moves each row at each step: (T or 1, B or 1, K)."""
    potentials = rows.theta.shape[0]
    if rows.gates is not None:
        return rows.gates[None] if rows.gates.dim() == 2 else rows.gates.movedim(1, 0)
    which = torch.arange(potentials, device=rows.z.device)
    index = rows.potential if rows.index is None else rows.index[None, :, None]
    return (which == index).to(rows.z.dtype).expand(1, -1 if rows.index is not None else 1, potentials)


def forward(engine: PathEngine, i: Inputs, precision: Precision) -> PathForward:
    path = _path(i)
    out = engine.path_forward(path, precision)
    energies = _energies(path.rows)
    if energies is None:
        return out
    energy = _weights(path.rows) @ energies
    times = i.t[:: i.substeps, None]
    residual = None if out.residual is None else out.residual - energy
    return PathForward(out.z, out.u - energy * times, out.dt - energy, residual)


def backward(
    engine: PathEngine, i: Inputs, z: Tensor, bars: PathCotangents, wanted: Wanted, precision: Precision
) -> OperatorGradients:
    """``wanted`` holds for the force as for the potentials: their gradients come from the same launches."""
    path = _path(i)
    found = engine.path_backward(path, precision, z, bars, wanted)
    g = found.rows
    assert g.z is not None
    result = OperatorGradients(g.z, g.theta, g.tau, g.dtau, found.force_theta, found.force_tau, g.gates)
    energies = _energies(path.rows)
    times = i.t[:: i.substeps, None]
    parts = [x for x in (bars.dt, bars.residual, None if bars.u is None else bars.u * times) if x is not None]
    if energies is None or not parts:
        return result
    d_energy = -torch.stack(parts).sum(0)  # (T, B)
    weights = _weights(path.rows)
    if g.theta is not None:
        g.theta[:, path.rows.shape.fields["energy"][0]] += (d_energy[..., None] * weights).sum((0, 1))
    if g.gates is not None:
        of_steps = (d_energy[..., None] * energies).movedim(0, 1)
        g.gates.add_(of_steps if g.gates.dim() == 3 else of_steps.sum(1))
    if bars.u is not None:
        result.t = i.t.new_zeros(i.moments)
        result.t[:: i.substeps] = -(bars.u * (weights @ energies)).sum(1)
    return result
