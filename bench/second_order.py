"""Hessian products, Laplacians and determinants: ``python -m bench.second_order --out bench/results/second_order``.

One thread, float32, D = H. In each group the results of all rows are compared with the first before they are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.environment import metadata, use_threads

Call = Callable[[], Any]

#: float32 in another order of operations, relative to the largest element.
TOLERANCE = 1e-3


def _networks(dim: int, rows: int) -> tuple[Any, Tensor, Callable[[Tensor], Tensor]]:
    """A bank of one potential without time, rows, and the same potential as a function of one row for torch.func."""
    import ffrl_fast
    from ffrl_fast import autodiff

    bank = ffrl_fast.PotentialBank(1, dim, time_embedding="none")
    bank.requires_grad_(False)
    w, t = bank.shape.unpack(bank.theta), torch.zeros(1)

    def u(z: Tensor) -> Tensor:
        return autodiff.potential(z[None], t, w, 0, bank.shape)[0]

    return bank, torch.randn(rows, dim), u


def tangent_calls(dim: int = 324, rows: int = 1024) -> dict[str, Call]:
    """``potential_field`` and all gradients, without and with a direction; not the same work."""
    import ffrl_fast

    bank, z = ffrl_fast.PotentialBank(1, dim), torch.randn(rows, dim, requires_grad=True)
    dt_bar, grad_bar, hvp_bar = torch.randn(rows), torch.randn(rows, dim), torch.randn(rows, dim)

    def call(tangent: Tensor | None, backend: str | None = None) -> Call:
        def run() -> Any:
            out = ffrl_fast.potential_field(z, 0.5, bank, tangent=tangent, backend=backend)
            outputs = (out.dt, out.grad) if out.hvp is None else (out.dt, out.grad, out.hvp)
            bars = (dt_bar, grad_bar, hvp_bar)[: len(outputs)]
            return torch.autograd.grad(outputs, (z, bank.theta), bars)

        return run

    ones, own = torch.ones(dim), torch.randn(rows, dim)
    return {
        "without a tangent": call(None),
        "tangent = 1 for all rows": call(ones),
        "a tangent for each row": call(own),
        "formulas and autograd, eager, tangent = 1": call(ones, "reference"),
    }


def laplacian_calls(dim: int = 64, rows: int = 4096) -> dict[str, Call]:
    """tr ∇²u."""
    import ffrl_fast

    bank, z, u = _networks(dim, rows)
    trace = torch.func.vmap(lambda x: torch.func.hessian(u)(x).trace())
    compiled = torch.compile(trace, fullgraph=True, dynamic=False)
    found: dict[str, Call] = {
        "ffrl_fast.laplacian": lambda: ffrl_fast.laplacian(z, 0.0, bank),
        "torch.func hessian and vmap": lambda: trace(z),
        "the same, torch.compile": lambda: compiled(z),
    }
    if importlib.util.find_spec("jax") is not None:
        found |= _jax_laplacians(bank, z)
    return found


def _jax_laplacians(bank: Any, z: Tensor) -> dict[str, Call]:
    import jax
    import jax.numpy as jnp

    w = bank.shape.unpack(bank.theta)
    x = {n: jnp.asarray(getattr(w, n)[0].numpy()) for n in ("w_in", "b_in", "w_hid", "b_hid", "w_out", "b_out")}
    rows = jnp.asarray(z.numpy())

    def u(row: Any) -> Any:
        a = jnp.tanh(x["w_in"] @ row + x["b_in"])
        c = jnp.tanh(x["w_hid"][0] @ a + x["b_hid"][0])
        return jnp.tanh(x["w_out"] @ c + x["b_out"])

    hessian = jax.jit(jax.vmap(lambda row: jnp.trace(jax.hessian(u)(row))))
    found: dict[str, Call] = {"JAX hessian": lambda: hessian(rows).block_until_ready()}
    if importlib.util.find_spec("folx") is not None:
        import folx

        forward = folx.forward_laplacian(u)
        folded = jax.jit(jax.vmap(lambda row: forward(row).laplacian))
        found["folx forward Laplacian, JAX"] = lambda: folded(rows).block_until_ready()
    return found


def log_det_calls(dim: int = 64, rows: int = 1024) -> dict[str, Call]:
    """log|det(I + ∇²u)|."""
    import ffrl_fast

    bank, z, u = _networks(dim, rows)
    hessian, identity = torch.func.vmap(torch.func.hessian(u)), torch.eye(dim)

    def determinant(z: Tensor) -> Tensor:
        return torch.linalg.slogdet(identity + hessian(z))[1]

    compiled = torch.compile(hessian, fullgraph=True, dynamic=False)
    ours = ffrl_fast.hessian(z, 0.0, bank)
    return {
        "ffrl_fast.log_det": lambda: ffrl_fast.log_det(z, 0.0, bank).value,
        "torch.func hessian and vmap, slogdet": lambda: determinant(z),
        "the same, hessian under torch.compile": lambda: torch.linalg.slogdet(identity + compiled(z))[1],
        "slogdet alone, the Hessian given": lambda: torch.linalg.slogdet(identity + ours)[1],
    }


GROUPS: dict[str, tuple[str, Callable[[], dict[str, Call]], bool]] = {
    "tangent": ("potential_field and all gradients, D = 324, B = 1,024", tangent_calls, False),
    "laplacian": ("The Laplacian, D = 64, B = 4,096", laplacian_calls, True),
    "log_det": ("log|det(I + ∇²u)|, D = 64, B = 1,024", log_det_calls, True),
}


def _compare(calls: dict[str, Call]) -> None:
    exact: Tensor | None = None
    for name, call in calls.items():
        result = call()
        found = result if isinstance(result, Tensor) else torch.tensor(list(map(float, result)))
        if exact is None:
            exact = found
        error = float((found - exact).abs().max() / exact.abs().max())
        if not error <= TOLERANCE:
            raise ArithmeticError(f"{name}: relative error {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.second_order", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each call")
    parser.add_argument("--only", choices=tuple(GROUPS), action="append")
    parser.add_argument("--out", type=Path, default=Path("bench/results/second_order"))
    a = parser.parse_args()
    use_threads(1)

    from bench.fma_peak import measure as measure_peak
    from bench.report import machine, write_table
    from bench.timing import interleave
    from ffrl_fast import _core

    peak = measure_peak(_core.isa())
    facts = metadata(1, command="python -m bench.second_order", dtype="float32", peak_gflops=peak.flops / 1e9)
    rows: list[dict[str, Any]] = []
    lines = [f"{machine(facts)}. `{facts['command']}`; medians and best samples of interleaved calls."]
    for group in a.only or GROUPS:
        title, make, comparable = GROUPS[group]
        calls = make()
        if comparable:
            _compare(calls)
        timings = interleave(calls, seconds=a.seconds)
        first = next(iter(timings.values()))
        lines += ["", f"**{title}**", "", "| | median, ms | best, ms | times the first row |", "|---|---|---|---|"]
        for name, t in timings.items():
            rows.append({"group": group, "call": name, "median_s": t.median, "min_s": t.minimum})
            lines.append(f"| {name} | {1e3 * t.median:.2f} | {1e3 * t.minimum:.2f} | {t.median / first.median:.2f} × |")
    write_table(rows, facts, "\n".join([*lines, ""]), a.out)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
