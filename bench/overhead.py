"""What a call costs when there is nothing to compute, B = 1 and D = 16: ``python -m bench.overhead``.

Beside ours stands an autograd node with empty bodies, the least that autograd in Python can cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.environment import use_threads
from bench.timing import Timing, interleave


class _Empty(torch.autograd.Function):
    """Three inputs, four outputs, no work: outputs and gradients made beforehand."""

    made: tuple[Tensor, ...] = ()

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(z, t, theta)
        return tuple(x.view_as(x) for x in _Empty.made)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        z, _, theta = ctx.saved_tensors
        return z, None, theta


def calls(dim: int = 16, rows: int = 1) -> dict[str, Callable[[], object]]:
    """The calls by name."""
    from bench import ours
    from bench.problems import Problem

    p = Problem(dim, rows)
    z, theta, t = p.leaves["z"], p.bank.theta, p.t
    _Empty.made = (p.dt_bar, p.dt_bar, p.grad_bar, p.dt_bar)

    def empty() -> None:
        _, dt, grad, _ = _Empty.apply(z, t, theta)
        torch.autograd.grad((dt, grad), (z, theta), (p.dt_bar, p.grad_bar))

    found: dict[str, Callable[[], object]] = {
        "torch.empty": lambda: torch.empty(rows),
        "empty autograd node, forward": lambda: _Empty.apply(z, t, theta),
        "empty autograd node, forward and backward": empty,
        "potential_field, no gradients": ours.operator(p, "forward"),
        "potential_field, forward and backward": ours.operator(p, "operator"),
        "hj_residual, mean square, forward and backward": ours.operator(p, "loss"),
    }
    found["the same and a product under torch.compile"] = ours.operator_compiled(p, "step")
    found["hj_loss, forward and backward"] = ours.hj_loss(p, "loss")
    found["value_and_grad"] = ours.value_and_grad(p, "loss")
    return found


def measure(seconds: float = 0.5) -> dict[str, Timing]:
    return interleave(calls(), seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    for name, timing in measure().items():
        print(f"{name:<50} {1e6 * timing.median:8.2f} µs  best {1e6 * timing.minimum:8.2f}")


if __name__ == "__main__":
    main()
