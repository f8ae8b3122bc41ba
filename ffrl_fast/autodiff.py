"""The same operators by automatic differentiation alone: the oracle that checks :mod:`ffrl_fast.reference`.

No derivative formula appears here. u is written as a chain of ``torch.nn.functional`` layers, potential by potential,
and every derivative is ``torch.autograd.grad`` of it. It is also the baseline of the benchmarks: what a user would
write without this package.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl_fast.layout import NetworkShape, Weights
from ffrl_fast.reference import Field, sinusoidal_embedding


def potential(z: Tensor, t: Tensor, w: Weights, k: int, shape: NetworkShape) -> Tensor:
    """u^k (B,) on rows ``z`` (B, D) at times ``t`` (1,) or (B,)."""
    s = torch.tanh(F.linear(z, w.w_in[k], w.b_in[k]))
    if w.w_time1 is not None and w.b_time1 is not None and w.w_time2 is not None and w.b_time2 is not None:
        embedded = sinusoidal_embedding(t, shape.dim)[0]
        s = s + F.linear(F.gelu(F.linear(embedded, w.w_time1[k], w.b_time1[k])), w.w_time2[k], w.b_time2[k])
    for layer in range(shape.depth):
        s = torch.tanh(F.linear(s, w.w_hid[k, layer], w.b_hid[k, layer]))
    out = F.linear(s, w.w_out[k][None]).squeeze(1) + w.b_out[k]
    u = torch.tanh(out) if shape.out_activation == "tanh" else out
    return u if w.energy is None else u - w.energy[k] * t


def potential_field(
    z: Tensor,
    t: Tensor,
    theta: Tensor,
    shape: NetworkShape,
    *,
    potential_index: int | None = None,
    index: Tensor | None = None,
    gates: Tensor | None = None,
    tangent: Tensor | None = None,
) -> Field:
    """As :func:`ffrl_fast.reference.potential_field`; differentiable, since every inner gradient keeps its graph."""
    rows = z.shape[0]
    z = z if z.requires_grad else z.detach().requires_grad_()
    times = t.expand(rows) if t.requires_grad else t.detach().expand(rows).clone().requires_grad_()
    w = shape.unpack(theta)
    ks = range(theta.shape[0]) if potential_index is None else [potential_index]
    values = torch.stack([potential(z, times, w, k, shape) for k in ks])
    if potential_index is not None:
        u = values[0]
    elif index is not None:
        u = values.gather(0, index[None])[0]
    else:
        assert gates is not None
        u = (gates.mT * values).sum(0)

    def derivative(y: Tensor, x: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
        return torch.zeros_like(x) if g is None else g

    grad, dt = derivative(u, z), derivative(u, times)
    hvp = None if tangent is None else derivative((grad * tangent).sum(), z)
    return Field(u, dt, grad, hvp)
