r"""What ffrl_fast is compared with, each in the strongest form we know, all in this one file.

A baseline is built for a problem and a kind of work (:mod:`bench.problems`) and is then a call without arguments that
returns ``(value, gradients of the leaves)``, or ``(u, ∂_t u, ∇u)`` for "forward". ``tests/bench`` holds all of them to
:mod:`ffrl_fast.reference`; the runner compares them once more, at the size at hand, before it times them.

Where a time is shared by all rows, ∂_t u = (∂u/∂τ)·dτ/dt is taken from the gradient at τ, with one evaluation of the
time layers for all rows; only the baselines that say so give each row a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.problems import FlowProblem, Problem, Work
from ffrl_fast.reference import sinusoidal_embedding

Arrays = dict[str, Any]
Call = Callable[[], Any]

# ------------------------------------------------------------------------------- the formulas, for torch and for JAX


@dataclass(frozen=True)
class Ops:
    """The few functions that torch and JAX spell differently."""

    tanh: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    erf: Callable[[Any], Any]
    linear: Callable[[Any, Any, Any], Any]  # x Wᵀ + b
    add_product: Callable[[Any, Any, Any], Any]  # c + a b
    embedding: Callable[[Any, int], tuple[Any, Any]]  # PE(t), dPE/dt


TORCH = Ops(torch.tanh, torch.exp, torch.erf, F.linear, torch.addmm, sinusoidal_embedding)


def conditioning(ops: Ops, t: Any, x: Arrays) -> tuple[Any, Any, Any]:
    """τ and dτ/dt, each (1, H), and what their backward needs; as given where they are leaves."""
    if "tau" in x:
        return x["tau"], x["dtau"], None
    embedded, d_embedded = ops.embedding(t, x["w_time1"].shape[1])
    q = ops.linear(embedded, x["w_time1"], x["b_time1"])
    d_q = d_embedded @ x["w_time1"].T
    cdf = 0.5 * (1 + ops.erf(q * math.sqrt(0.5)))
    pdf = ops.exp(-0.5 * q * q) * (1 / math.sqrt(2 * math.pi))
    gelu, slope = q * cdf, cdf + q * pdf
    d_gelu = slope * d_q
    tau, dtau = ops.linear(gelu, x["w_time2"], x["b_time2"]), d_gelu @ x["w_time2"].T
    return tau, dtau, (embedded, d_embedded, q, d_q, pdf, gelu, slope, d_gelu)


def conditioning_backward(x: Arrays, saved: Any, tau_bar: Any, dtau_bar: Any) -> tuple[Any, ...]:
    """Gradients of the time layers, or of τ and dτ/dt where these are leaves."""
    if saved is None:
        return tau_bar, dtau_bar
    embedded, d_embedded, q, d_q, pdf, gelu, slope, d_gelu = saved
    gelu_bar, d_gelu_bar = tau_bar @ x["w_time2"], dtau_bar @ x["w_time2"]
    q_bar = gelu_bar * slope + d_gelu_bar * d_q * pdf * (2 - q * q)
    d_q_bar = d_gelu_bar * slope
    w_time2 = tau_bar.T @ gelu + dtau_bar.T @ d_gelu
    return q_bar.T @ embedded + d_q_bar.T @ d_embedded, q_bar[0], w_time2, tau_bar[0]


def formulas_forward(ops: Ops, x: Arrays, tau: Any, dtau: Any) -> tuple[Any, Any, Any, Any]:
    """u, ∂_t u, ∇u and what the backward needs: four products. τ is folded into the hidden bias."""
    a = ops.tanh(ops.linear(x["z"], x["w_in"], x["b_in"]))
    c = ops.tanh(ops.linear(a, x["w_hid"], ops.linear(tau, x["w_hid"], x["b_hid"])[0]))
    u = ops.tanh(c @ x["w_out"] + x["b_out"])
    h = x["w_out"] * (1 - c * c)
    v = h @ x["w_hid"]
    slope = 1 - u * u
    g_a = slope[:, None] * v * (1 - a * a)
    return u, slope * (v @ dtau[0]), g_a @ x["w_in"], (a, c, u, h, v, slope, g_a)


def formulas_backward(
    ops: Ops, x: Arrays, tau: Any, dtau: Any, saved: Any, dt_bar: Any, grad_bar: Any
) -> tuple[tuple[Any, ...], Any, Any]:
    """Gradients of z and the six weights, and of τ and dτ/dt: eight products, derived by hand."""
    a, c, u, h, v, slope, g_a = saved
    a1 = 1 - a * a
    ga_bar = grad_bar @ x["w_in"].T
    gs_bar = ga_bar * a1 + dt_bar[:, None] * dtau
    v_bar = slope[:, None] * gs_bar
    h_bar = v_bar @ x["w_hid"].T
    o_bar = -2 * u * slope * (gs_bar * v).sum(1)
    c1 = 1 - c * c
    p_bar = c1 * x["w_out"] * (o_bar[:, None] - 2 * c * h_bar)
    a_bar = p_bar @ x["w_hid"] - 2 * a * ga_bar * slope[:, None] * v
    q_bar = a_bar * a1
    b_hid = p_bar.sum(0)
    w_hid = ops.add_product(p_bar.T @ a, h.T, v_bar) + b_hid[:, None] * tau
    w_in = ops.add_product(q_bar.T @ x["z"], g_a.T, grad_bar)
    w_out = (h_bar * c1 + o_bar[:, None] * c).sum(0)
    gradients = (q_bar @ x["w_in"], w_in, q_bar.sum(0), w_hid, b_hid, w_out, o_bar.sum())
    return gradients, (b_hid @ x["w_hid"])[None], ((dt_bar * slope) @ v)[None]


def cotangents(work: Work, dt: Any, grad: Any, dt_bar: Any, grad_bar: Any) -> tuple[Any, Any, Any]:
    """The work's value and its cotangents of ∂_t u and ∇u, by hand."""
    if work == "operator":
        return (dt_bar * dt).sum() + (grad_bar * grad).sum(), dt_bar, grad_bar
    residual = dt + 0.5 * (grad * grad).sum(1)
    scaled = (2 / max(1, residual.shape[0])) * residual
    value = (residual * residual).mean()
    if work == "loss":
        return value, scaled, scaled[:, None] * grad
    return value + (grad_bar * grad).sum(), scaled, scaled[:, None] * grad + grad_bar


def by_formulas(ops: Ops, work: Work, x: Arrays, t: Any, dt_bar: Any, grad_bar: Any) -> Any:
    """All of a work by hand-derived formulas."""
    tau, dtau, saved_time = conditioning(ops, t, x)
    u, dt, grad, saved = formulas_forward(ops, x, tau, dtau)
    if work == "forward":
        return u, dt, grad
    value, dt_bar, grad_bar = cotangents(work, dt, grad, dt_bar, grad_bar)
    gradients, tau_bar, dtau_bar = formulas_backward(ops, x, tau, dtau, saved, dt_bar, grad_bar)
    return value, (*gradients, *conditioning_backward(x, saved_time, tau_bar, dtau_bar))


# --------------------------------------------------------------------------------------------------- torch, eager


def network(x: Arrays, tau: Tensor) -> tuple[Tensor, Tensor]:
    """u (B,) and the sum a + τ (B, H) whose gradient is that of τ, row by row."""
    s = torch.tanh(F.linear(x["z"], x["w_in"], x["b_in"])) + tau
    c = torch.tanh(F.linear(s, x["w_hid"], x["b_hid"]))
    return torch.tanh(c @ x["w_out"] + x["b_out"]), s


def time_layers(t: Tensor, x: Arrays) -> Tensor:
    """τ (R, H) at times ``t`` (R,)."""
    embedded = sinusoidal_embedding(t, x["w_time1"].shape[1])[0]
    return F.linear(F.gelu(F.linear(embedded, x["w_time1"], x["b_time1"])), x["w_time2"], x["b_time2"])


def autograd_field(x: Arrays, t: Tensor, create_graph: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """u, ∂_t u, ∇u with one time for all rows."""
    tau, dtau, _ = conditioning(TORCH, t, x)
    u, s = network(x, tau)
    along_s, grad = torch.autograd.grad(u.sum(), (s, x["z"]), create_graph=create_graph)
    return u, along_s @ dtau[0], grad


def autograd_field_per_row(x: Arrays, t: Tensor, create_graph: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a time of its own for each row, as code that samples times needs it."""
    times = t.expand(x["z"].shape[0]).clone().requires_grad_()
    tau = x["tau"] + (times - t)[:, None] * x["dtau"] if "tau" in x else time_layers(times, x)
    u, _ = network(x, tau)
    dt, grad = torch.autograd.grad(u.sum(), (times, x["z"]), create_graph=create_graph)
    return u, dt, grad


def _eager(field: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[[Problem, Work], Call]:
    def build(p: Problem, work: Work) -> Call:
        leaves = list(p.leaves.values())

        def call() -> Any:
            u, dt, grad = field(p.leaves, p.t, create_graph=work != "forward")
            if work == "forward":
                return u, dt, grad
            value = p.objective(work, dt, grad)
            return value, torch.autograd.grad(value, leaves)

        return call

    return build


autograd_shared_time = _eager(autograd_field)
autograd_time_per_row = _eager(autograd_field_per_row)


def products(p: Problem, work: Work) -> Call:
    """The products of the work and nothing else, through ``torch.mm`` into buffers that stay warm; no result.

    Forward: z W_inᵀ, a W_hidᵀ, ĥ W_hid, g_a W_in. Backward: ḡ W_inᵀ, d_v W_hidᵀ, d_p W_hid, d_q W_in, and
    dW_hid = d_pᵀ a + ĥᵀ d_v, dW_in = d_qᵀ z + g_aᵀ ḡ, each the sum of two products formed in place.
    """
    x = p.leaves["z"].detach()
    y = torch.randn_like(x)
    w_in, w_hid = p.leaves["w_in"].detach(), p.leaves["w_hid"].detach()
    out, out2, w_bar = x.clone(), x.clone(), w_in.clone()
    mm = torch.mm

    def forward() -> None:
        mm(x, w_in.t(), out=out)
        mm(y, w_hid.t(), out=out2)
        mm(y, w_hid, out=out)
        mm(x, w_in, out=out2)

    def both() -> None:
        forward()
        mm(x, w_in.t(), out=out)
        mm(y, w_hid.t(), out=out2)
        mm(y, w_hid, out=out)
        mm(x, w_in, out=out2)
        mm(y.t(), x, out=w_bar)
        w_bar.addmm_(out.t(), y)
        mm(y.t(), x, out=w_bar)
        w_bar.addmm_(out.t(), y)

    return forward if work == "forward" else both


# ------------------------------------------------------------------------- torch.func, torch.compile on the formulas


def functional_field(x: Arrays, tau: Tensor, dtau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u, ∂_t u, ∇u by ``vmap`` over the gradient of one row's u, with respect to the row and τ."""

    def row(z: Tensor, tau: Tensor) -> Tensor:
        s = torch.tanh(F.linear(z, x["w_in"], x["b_in"])) + tau
        return torch.tanh(torch.tanh(F.linear(s, x["w_hid"], x["b_hid"])) @ x["w_out"] + x["b_out"])

    one = torch.func.grad_and_value(row, argnums=(0, 1))
    (grad, along_tau), u = torch.func.vmap(one, in_dims=(0, None))(x["z"], tau[0])
    return u, along_tau @ dtau[0], grad


def _by_functional(p: Problem, work: Work) -> Callable[[Arrays, Tensor], Any]:
    def field(x: Arrays, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau, dtau, _ = conditioning(TORCH, t, x)
        return functional_field(x, tau, dtau)

    if work == "forward":
        return field

    def value(x: Arrays, t: Tensor) -> Tensor:
        _, dt, grad = field(x, t)
        return p.objective(work, dt, grad)

    def run(x: Arrays, t: Tensor) -> Any:
        gradients, found = torch.func.grad_and_value(value)(x, t)
        return found, tuple(gradients.values())

    return run


def functional(p: Problem, work: Work) -> Call:
    run, x = _by_functional(p, work), _detached(p)
    return lambda: run(x, p.t)


def functional_compiled(p: Problem, work: Work, backend: str = "inductor") -> Call:
    run, x = _compile(_by_functional(p, work), backend), _detached(p)
    return lambda: run(x, p.t)


def formulas_compiled(p: Problem, work: Work, backend: str = "inductor") -> Call:
    """Forward and backward by hand, no autograd at all, in one graph."""
    run, x = _compile(by_formulas, backend), _detached(p)
    return lambda: run(TORCH, work, x, p.t, p.dt_bar, p.grad_bar)


def formulas_autograd_compiled(p: Problem, work: Work, backend: str = "inductor") -> Call:
    """The forward formulas in one graph; their backward derived by the compiler."""
    if work == "forward":
        return formulas_compiled(p, work, backend)

    def value(x: Arrays, t: Tensor) -> Tensor:
        tau, dtau, _ = conditioning(TORCH, t, x)
        _, dt, grad, _ = formulas_forward(TORCH, x, tau, dtau)
        return p.objective(work, dt, grad)

    run, leaves = _compile(value, backend), list(p.leaves.values())

    def call() -> Any:
        found = run(p.leaves, p.t)
        return found, torch.autograd.grad(found, leaves)

    return call


def formulas_eager(p: Problem, work: Work) -> Call:
    """The hand-derived formulas, operation by operation."""
    x = _detached(p)
    return lambda: by_formulas(TORCH, work, x, p.t, p.dt_bar, p.grad_bar)


def _detached(p: Problem | FlowProblem) -> Arrays:
    return {n: leaf.detach() for n, leaf in p.leaves.items()}


def _compile(f: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return torch.compile(f, fullgraph=True, dynamic=False, backend=backend)


# ------------------------------------------------------------------------------------------------------------- JAX


def _jax_ops() -> Ops:
    import jax
    import jax.numpy as jnp

    def embedding(t: Any, dim: int) -> tuple[Any, Any]:
        half = dim // 2
        rate = jnp.exp(jnp.arange(half, dtype=t.dtype) * (-math.log(10_000.0) / max(half - 1, 1)))
        sin, cos = jnp.sin(t[:, None] * rate), jnp.cos(t[:, None] * rate)
        rest = jnp.zeros((t.shape[0], dim - 2 * half), t.dtype)
        return jnp.concatenate((sin, cos, rest), 1), jnp.concatenate((rate * cos, -rate * sin, rest), 1)

    return Ops(
        jnp.tanh,
        jnp.exp,
        jax.scipy.special.erf,
        lambda x, w, b: x @ w.T + b,
        lambda c, a, b: c + a @ b,
        embedding,
    )


def _jax(x: Any) -> Any:
    """A tensor as a JAX array, or a dictionary of them."""
    import jax.numpy as jnp

    if isinstance(x, dict):
        return {n: _jax(v) for n, v in x.items()}
    if x.dtype != torch.float32:
        raise TypeError(f"the JAX baselines are for torch.float32, found {x.dtype}")
    return jnp.array(x.detach().numpy())


def jax_formulas(p: Problem, work: Work) -> Call:
    """Forward and backward by hand under ``jax.jit``."""
    import jax

    ops = _jax_ops()
    run = jax.jit(lambda *args: by_formulas(ops, work, *args))
    args = [_jax(a) for a in (p.leaves, p.t, p.dt_bar, p.grad_bar)]
    return lambda: jax.block_until_ready(run(*args))


def _jax_gradients(p: Problem, work: Work, field: Callable[[Arrays, Any], Any]) -> Call:
    import jax

    args = [_jax(a) for a in (p.leaves, p.t, p.dt_bar, p.grad_bar)]
    if work == "forward":
        run = jax.jit(field)
        return lambda: jax.block_until_ready(run(*args[:2]))

    def value(x: Arrays, t: Any, dt_bar: Any, grad_bar: Any) -> Any:
        _, dt, grad = field(x, t)
        return p.objective(work, dt, grad, dt_bar, grad_bar)

    both = jax.jit(jax.value_and_grad(value))
    names = list(p.leaves)

    def call() -> Any:
        found, gradients = jax.block_until_ready(both(*args))
        return found, tuple(gradients[n] for n in names)

    return call


def jax_formulas_autodiff(p: Problem, work: Work) -> Call:
    """The forward formulas, and JAX's gradient of them."""
    ops = _jax_ops()

    def field(x: Arrays, t: Any) -> Any:
        tau, dtau, _ = conditioning(ops, t, x)
        return formulas_forward(ops, x, tau, dtau)[:3]

    return _jax_gradients(p, work, field)


def jax_autodiff(p: Problem, work: Work) -> Call:
    """``vmap`` over JAX's gradient of one row's u, with respect to the row and τ, and JAX's gradient of that."""
    import jax

    ops = _jax_ops()

    def field(x: Arrays, t: Any) -> Any:
        tau, dtau, _ = conditioning(ops, t, x)

        def row(z: Any, tau: Any) -> Any:
            s = ops.tanh(x["w_in"] @ z + x["b_in"]) + tau
            return ops.tanh(ops.tanh(x["w_hid"] @ s + x["b_hid"]) @ x["w_out"] + x["b_out"])

        one = jax.vmap(jax.value_and_grad(row, argnums=(0, 1)), in_axes=(0, None))
        u, (grad, along_tau) = one(x["z"], tau[0])
        return u, along_tau @ dtau[0], grad

    return _jax_gradients(p, work, field)


# ------------------------------------------------------------------------------------ trajectories of T Euler steps


def _force_of(x: Arrays) -> Arrays | None:
    """The leaves of the force network, by the names that the network's functions know."""
    found = {n.removeprefix("force_"): v for n, v in x.items() if n.startswith("force_")}
    return found or None


def _flow(p: FlowProblem, x: Arrays, times: Any, end_bar: Any, ops: Ops, field: Callable[..., Any]) -> Any:
    """mean r² over all steps and rows + ⟨z̄, z_T⟩, the step by ``field``(leaves, t) -> (u, ∂_t u, ∇u)."""
    force = _force_of(x)
    z, squares = x["z"], 0.0
    for i in range(p.steps):
        t = times[i : i + 1]
        _, dt, grad = field(x | {"z": z}, t)
        residual = dt + 0.5 * (grad * grad).sum(1)
        if force is not None:
            tau, _, _ = conditioning(ops, t, force)
            s = ops.tanh(ops.linear(z, force["w_in"], force["b_in"])) + tau
            value = ops.tanh(ops.tanh(ops.linear(s, force["w_hid"], force["b_hid"])) @ force["w_out"] + force["b_out"])
            residual = residual + value * value
        squares = squares + (residual * residual).mean()
        z = z + grad
    return squares / p.steps + (end_bar * z).sum()


def flow_autograd(p: FlowProblem) -> Call:
    """Eager autograd with one time for all rows."""
    leaves = list(p.leaves.values())

    def call() -> Any:
        value = _flow(p, p.leaves, p.times, p.end_bar, TORCH, autograd_field)
        return value, torch.autograd.grad(value, leaves)

    return call


def flow_formulas_compiled(p: FlowProblem, backend: str = "inductor") -> Call:
    """The forward formulas of all steps in one graph; the backward derived by the compiler."""

    def field(x: Arrays, t: Tensor) -> Any:
        tau, dtau, _ = conditioning(TORCH, t, x)
        return formulas_forward(TORCH, x, tau, dtau)[:3]

    run = _compile(lambda x, times, end_bar: _flow(p, x, times, end_bar, TORCH, field), backend)
    leaves = list(p.leaves.values())

    def call() -> Any:
        value = run(p.leaves, p.times, p.end_bar)
        return value, torch.autograd.grad(value, leaves)

    return call


def flow_jax_formulas(p: FlowProblem) -> Call:
    """The forward formulas of all steps under ``jax.jit``, and JAX's gradient of them."""
    import jax

    ops = _jax_ops()

    def field(x: Arrays, t: Any) -> Any:
        tau, dtau, _ = conditioning(ops, t, x)
        return formulas_forward(ops, x, tau, dtau)[:3]

    both = jax.jit(jax.value_and_grad(lambda x, times, end_bar: _flow(p, x, times, end_bar, ops, field)))
    args = [_jax(a) for a in (p.leaves, p.times, p.end_bar)]
    names = list(p.leaves)

    def call() -> Any:
        found, gradients = jax.block_until_ready(both(*args))
        return found, tuple(gradients[n] for n in names)

    return call


def paper_code_step(x: Arrays, t: Tensor, row_sums: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One potential as the paper's public code evaluates it: residual r_b (B, 1), u (B, 1), ∇u, row sums of ∇²u.

    t is (1, 1), so that the gradient at it is Σ_b ∂_t u_b, and ½ mean(∇u²) is one number for the batch.
    """
    z, t = x["z"].clone().requires_grad_(), t.clone().requires_grad_()
    u = network(x | {"z": z}, time_layers(t[0], x))[0][:, None]
    u_t = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
    u_z = torch.autograd.grad(u.sum(), z, create_graph=True)[0]
    u_zz = torch.autograd.grad(u_z.sum(), z, create_graph=True)[0] if row_sums else None
    residual = u_t + 0.5 * (u_z**2).mean()
    force = _force_of(x)
    if force is not None:
        residual = residual + network(force | {"z": z}, time_layers(t[0], force))[0][:, None] ** 2
    return residual, u, u_z, u_zz


def flow_paper_code(p: FlowProblem, row_sums: bool = True) -> Call:
    """The public code's flow module, K chosen for the batch: its residual, and its log|1 + row sums| in the loss.

    Not the same numbers as the others': its residual is of the batch, and they have no row sums. The condition at t = 0
    that it adds at its first step is left out, to its advantage.
    """
    leaves = list(p.leaves.values())

    def call() -> Any:
        z, value = p.leaves["z"], p.leaves["z"].new_zeros(())
        for i in range(p.steps):
            residual, _, u_z, u_zz = paper_code_step(p.leaves | {"z": z}, p.times[i].view(1, 1), row_sums)
            value = value + residual.square().mean() / p.steps
            if u_zz is not None:
                value = value - torch.log(torch.abs(1 + u_zz)).sum(1).mean() / p.steps
            z = z + u_z
        value = value + (p.end_bar * z).sum()
        return value, torch.autograd.grad(value, leaves)

    return call
