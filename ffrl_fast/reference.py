r"""The operators in plain PyTorch, by their formulas: any device, any floating dtype, any order of derivative.

This file is the specification. The native backends are tested and timed against it, and take its place only where they
are faster; :mod:`ffrl_fast.autodiff`, which knows no formula, checks this file in turn.

Notation, for one potential of D → H → … → H → 1 with L hidden layers:

.. math::
    a &= \tanh(W_{in} z + b_{in}) & s_0 &= a + \tau \\
    c_\ell &= \tanh(W_\ell s_{\ell-1} + b_\ell) & s_\ell &= c_\ell \qquad \ell = 1 … L \\
    o &= w_{out} \cdot c_L + b_{out} & u &= \varphi(o)

and, backwards through the layers, with :math:`v_{L+1} = w_{out}`:

.. math::
    \hat h_\ell &= v_{\ell+1} \odot (1 - c_\ell^2) & v_\ell &= W_\ell^T \hat h_\ell \\
    \partial_t u &= \varphi' \, v_1 \cdot \dot\tau & \nabla_z u &= \varphi' \, W_{in}^T (v_1 \odot (1 - a^2))

A separable potential subtracts E t from u and E from ∂_t u.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl_fast.layout import NetworkShape, Weights


class Field(NamedTuple):
    """u (…,B), ∂_t u (…,B), ∇u (…,B,D) and the Hessian times the tangent (…,B,D) or None."""

    u: Tensor
    dt: Tensor
    grad: Tensor
    hvp: Tensor | None


def sinusoidal_embedding(t: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """PE(t) and dPE/dt for ``t`` (R,), each (R, dim): sines, then cosines, of t·exp(−log(10⁴)·i/(dim/2 − 1)).

    An odd ``dim`` leaves its last entry 0.
    """
    half = dim // 2
    rate = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (-math.log(10_000.0) / max(half - 1, 1)))
    angle = t[:, None] * rate
    sin, cos = angle.sin(), angle.cos()
    rest = t.new_zeros(t.shape[0], dim - 2 * half)
    return torch.cat((sin, cos, rest), 1), torch.cat((rate * cos, -rate * sin, rest), 1)


def conditioning(t: Tensor, theta: Tensor, shape: NetworkShape) -> tuple[Tensor | None, Tensor | None]:
    """τ(t) = W₂ GELU(W₁ PE(t) + b₁) + b₂ and dτ/dt, each (K, R, H); (None, None) unless the embedding is sinusoidal."""
    if shape.time_embedding != "sinusoidal":
        return None, None
    w = shape.unpack(theta)
    assert w.w_time1 is not None and w.b_time1 is not None and w.w_time2 is not None and w.b_time2 is not None
    embedded, d_embedded = sinusoidal_embedding(t, shape.dim)
    q = embedded @ w.w_time1.mT + w.b_time1[:, None]
    d_q = d_embedded @ w.w_time1.mT
    normal_cdf = 0.5 * (1 + torch.erf(q * math.sqrt(0.5)))
    normal_pdf = torch.exp(-0.5 * q * q) * (1 / math.sqrt(2 * math.pi))
    tau = (q * normal_cdf) @ w.w_time2.mT + w.b_time2[:, None]
    return tau, ((normal_cdf + q * normal_pdf) * d_q) @ w.w_time2.mT


class _Sweeps(NamedTuple):
    """a (K,B,H); c_1 … c_L; v_1 … v_{L+1}, the last (K,1,H); φ(o) and φ' (K,B)."""

    a: Tensor
    c: list[Tensor]
    v: list[Tensor]
    value: Tensor
    slope: Tensor


def _sweeps(z: Tensor, w: Weights, shape: NetworkShape, tau: Tensor | None) -> _Sweeps:
    """Forward and backwards through the layers, for every potential."""
    a = torch.tanh(z @ w.w_in.mT + w.b_in[:, None])
    s = a if tau is None else a + tau
    c = []
    for layer in range(shape.depth):
        s = torch.tanh(s @ w.w_hid[:, layer].mT + w.b_hid[:, layer, None])
        c.append(s)
    out = (c[-1] @ w.w_out[:, :, None]).squeeze(-1) + w.b_out[:, None]
    value = torch.tanh(out) if shape.out_activation == "tanh" else out
    slope = 1 - value * value if shape.out_activation == "tanh" else torch.ones_like(out)
    v = [w.w_out[:, None]]
    for layer in reversed(range(shape.depth)):
        v.insert(0, (v[0] * (1 - c[layer] ** 2)) @ w.w_hid[:, layer])
    return _Sweeps(a, c, v, value, slope)


def all_potentials(
    z: Tensor,
    t: Tensor,
    theta: Tensor,
    shape: NetworkShape,
    tau: Tensor | None,
    dtau: Tensor | None,
    tangent: Tensor | None = None,
) -> Field:
    """Every potential of ``theta`` (K, P) on every row of ``z`` (B, D): outputs of shape (K, B) and (K, B, D).

    ``t`` is (1,) or (B,); ``tau`` and ``dtau`` (K, 1 or B, H) or None for 0; ``tangent`` (D,) or (B, D).
    """
    w = shape.unpack(theta)
    a, c, vs, value, slope = _sweeps(z, w, shape, tau)
    v = vs[0]
    a1 = 1 - a * a
    g_s = slope[..., None] * v
    dt = torch.zeros_like(value) if dtau is None else (g_s * dtau).sum(-1)
    grad = (g_s * a1) @ w.w_in
    u = value
    if w.energy is not None:
        u = value - w.energy[:, None] * t
        dt = dt - w.energy[:, None]
    if tangent is None:
        return Field(u, dt, grad, None)

    # The derivative of the two sweeps above along `tangent`; a dot in math is `_dot` here.
    a_dot = a1 * (tangent @ w.w_in.mT if tangent.dim() == 2 else (w.w_in @ tangent)[:, None])
    s_dot = a_dot
    c_dot = []
    for layer in range(shape.depth):
        s_dot = (1 - c[layer] ** 2) * (s_dot @ w.w_hid[:, layer].mT)
        c_dot.append(s_dot)
    v_dot = torch.zeros_like(v[..., :1])
    for layer in reversed(range(shape.depth)):
        c1 = 1 - c[layer] ** 2
        v_dot = (v_dot * c1 - 2 * vs[layer + 1] * c[layer] * c_dot[layer]) @ w.w_hid[:, layer]
    hvp = slope[..., None] * ((v_dot * a1 - 2 * v * a * a_dot) @ w.w_in)
    if shape.out_activation == "tanh":
        hvp = hvp - 2 * (value * (grad * tangent).sum(-1))[..., None] * (v * a1) @ w.w_in
    return Field(u, dt, grad, hvp)


def potential_field(
    z: Tensor,
    t: Tensor,
    theta: Tensor,
    shape: NetworkShape,
    tau: Tensor | None,
    dtau: Tensor | None,
    *,
    potential: int = -1,
    index: Tensor | None = None,
    gates: Tensor | None = None,
    tangent: Tensor | None = None,
) -> Field:
    """The field of one potential (``potential`` ≥ 0), one a row (``index`` (B,)) or of Σ_k g_k u^k (``gates``, (B, K)).

    ``tau`` and ``dtau`` are (K, R, H); (1, R, H) will do for one ``potential``.
    """
    theta = _of_one(theta, potential)  # type: ignore[assignment]
    tau, dtau = _of_one(tau, potential), _of_one(dtau, potential)
    fields = all_potentials(z, t, theta, shape, tau, dtau, tangent)

    return Field(*(x if x is None else _select(x, potential, index, gates) for x in fields))  # type: ignore[arg-type]


def _of_one(x: Tensor | None, potential: int) -> Tensor | None:
    """The part of x (K, …) that belongs to one ``potential``; x where it is −1 or holds no other."""
    return x if x is None or potential < 0 or x.shape[0] == 1 else x[potential : potential + 1]


def _select(x: Tensor, potential: int, index: Tensor | None, gates: Tensor | None) -> Tensor:
    """What each row gets of x (K, B, …)."""
    if potential >= 0:
        return x[0]
    if index is not None:
        at = index.view(1, -1, *([1] * (x.dim() - 2))).expand(1, *x.shape[1:])
        return x.gather(0, at)[0]
    assert gates is not None
    return (gates.mT.view(*gates.mT.shape, *([1] * (x.dim() - 2))) * x).sum(0)


def hessian(
    z: Tensor,
    theta: Tensor,
    shape: NetworkShape,
    tau: Tensor | None,
    *,
    potential: int = -1,
    index: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    r"""∇²u (B, D, D), arguments as in :func:`potential_field`; by the structure of the network.

    With P_0 = W_in and P_ℓ = W_ℓ diag(∂s_{ℓ−1}) P_{ℓ−1}, where ∂s is 1 − a² or 1 − c²,

    .. math::
        \nabla^2 o = \sum_{\ell=0}^L P_\ell^T \operatorname{diag}(\beta_\ell) P_\ell, \qquad
        \nabla^2 u = \varphi' \nabla^2 o + \varphi'' \nabla o \, \nabla o^T

    with β_0 = −2 v_1 ⊙ a ⊙ (1 − a²) and β_ℓ = −2 v_{ℓ+1} ⊙ c_ℓ ⊙ (1 − c_ℓ²).
    """
    theta, tau = _of_one(theta, potential), _of_one(tau, potential)  # type: ignore[assignment]
    w = shape.unpack(theta)
    a, c, v, value, slope = _sweeps(z, w, shape, tau)
    p = w.w_in[:, None]
    d_s = 1 - a * a
    total = p.mT @ ((-2 * v[0] * a * d_s)[..., None] * p)
    for layer, y in enumerate(c):
        p = w.w_hid[:, layer, None] @ (d_s[..., None] * p)
        d_s = 1 - y * y
        total = total + p.mT @ ((-2 * v[layer + 1] * y * d_s)[..., None] * p)
    total = slope[..., None, None] * total
    if shape.out_activation == "tanh":
        grad = (v[0] * (1 - a * a)) @ w.w_in
        total = total - 2 * (value * slope)[..., None, None] * grad[..., :, None] * grad[..., None, :]
    return _select(total, potential, index, gates)


def row_sum(hvp: Tensor, step: float) -> Tensor:
    """Σ_d log|1 + step·(∇²u 1)_d| (B,), for ``hvp`` = ∇²u 1 (B, D): the paper's code's log|det(I + step ∇²u)|."""
    return torch.log((1 + step * hvp).abs()).sum(-1)


def hj_residual(dt: Tensor, grad: Tensor, force: Tensor | None) -> Tensor:
    """r = ∂_t u + ½‖∇u‖² − f with f = −F², for ``dt`` (B,), ``grad`` (B, D) and the force network's value F (B,)."""
    residual = dt + 0.5 * (grad * grad).sum(-1)
    return residual if force is None else residual + force * force


def hj_residual_paper_code(dt: Tensor, grad: Tensor, force: Tensor | None) -> Tensor:
    """The paper's public code: r_b = Σ_b ∂_t u_b + ½ mean(∇u²) + F_b², sum and mean over the whole batch."""
    residual = dt.sum() + 0.5 * (grad * grad).mean()
    return residual.expand(dt.shape[0]) if force is None else residual + force * force
