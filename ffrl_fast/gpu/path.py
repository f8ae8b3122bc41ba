"""Rows carried through N moments on a GPU engine, moment by moment, and back.

Only z_0 … z_N is kept on the way out; the way back computes each moment again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Engine, PathCotangents, PathForward, Precision, Wanted
from ffrl_fast.gpu.moment import Moment, backward, forward

#: The moment i of a path, reached at z.
MomentAt = Callable[[int, Tensor], Moment]


def path_forward(
    engine: Engine, at: MomentAt, z: Tensor, moments: int, substeps: int, step: float, residual: bool, p: Precision
) -> PathForward:
    rows, dim = z.shape
    steps = moments // substeps
    path = z.new_empty(moments + 1, rows, dim)
    path[0] = z
    u, dt = z.new_empty(steps, rows), z.new_empty(steps, rows)
    residuals = z.new_empty(steps, rows) if residual else None
    for i in range(moments):
        moment = at(i, path[i])
        moment.residual = residual and i % substeps == 0
        out = forward(engine, moment, p, keep=False)
        torch.add(path[i], out.network.grad, alpha=step, out=path[i + 1])
        if i % substeps == 0:
            u[i // substeps], dt[i // substeps] = out.u, out.dt
            if residuals is not None:
                assert out.network.residual is not None
                residuals[i // substeps] = out.network.residual
    return PathForward(path, u, dt, residuals)


@dataclass(slots=True)
class OperatorGradients:
    """Of z or z_0 (B, D); theta; tau, dtau; gates; t: of the shapes of the operator's inputs. None: not reached."""

    z: Tensor
    theta: Tensor | None = None
    tau: Tensor | None = None
    dtau: Tensor | None = None
    force_theta: Tensor | None = None
    force_tau: Tensor | None = None
    gates: Tensor | None = None
    t: Tensor | None = None


def _add(into: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if into is None else into if part is None else into.add_(part)


def path_backward(
    engine: Engine,
    at: MomentAt,
    path: Tensor,
    substeps: int,
    step: float,
    bars: PathCotangents,
    wanted: Wanted,
    wanted_force: Wanted,
    p: Precision,
) -> OperatorGradients:
    moments = path.shape[0] - 1
    d_z = torch.zeros_like(path[0]) if bars.z is None else bars.z[moments].clone()
    found = OperatorGradients(d_z)
    by_moment: dict[str, list[Tensor | None]] = {name: [None] * moments for name in ("tau", "dtau", "force_tau", "t")}
    of_step: list[Tensor | None] = [None] * (moments // substeps)
    for i in reversed(range(moments)):
        recorded, s = i % substeps == 0, i // substeps

        def of(bar: Tensor | None, recorded: bool = recorded, s: int = s) -> Tensor | None:
            return bar[s] if recorded and bar is not None else None

        cotangents = Cotangents(of(bars.u), of(bars.dt), step * d_z, of(bars.residual))
        moment = at(i, path[i])
        moment.residual = cotangents.residual is not None
        out = forward(engine, moment, p, keep=True)
        g = backward(engine, moment, p, out, cotangents, wanted._replace(z=True), wanted_force._replace(z=True))
        assert g.network.z is not None
        d_z = d_z + g.network.z
        if bars.z is not None:
            d_z += bars.z[i]
        found.theta = _add(found.theta, g.network.theta)
        of_step[s] = _add(of_step[s], g.network.gates)
        by_moment["tau"][i], by_moment["dtau"][i], by_moment["t"][i] = g.network.tau, g.network.dtau, g.t
        if g.force is not None:
            found.force_theta = _add(found.force_theta, g.force.theta)
            by_moment["force_tau"][i] = g.force.tau
    found.z = d_z
    for name, parts in by_moment.items():
        first = next((x for x in parts if x is not None), None)
        if first is not None:
            # (K, 1, H) of each moment side by side; a moment that nothing reached has zeros.
            whole = [torch.zeros_like(first) if x is None else x for x in parts]
            setattr(found, name, torch.cat(whole, 0 if first.dim() == 1 else 1))
    if of_step and of_step[0] is not None:
        found.gates = torch.stack([x for x in of_step if x is not None], 1)
    return found
