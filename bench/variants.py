"""Every row of the benchmark by name: what it is, and for which work it exists."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench import baselines, ours
from bench.problems import FlowProblem, Problem
from ffrl_fast.tolerances import relative_error

Call = Callable[[], Any]

#: float32 against float32 in another order of operations, in norm, over sums of up to 65,536 rows.
TOLERANCE = 2e-4


@dataclass(frozen=True)
class Variant:
    """``build(problem, work)`` makes a call; ``prepare`` brings its result to the form of the baselines'."""

    name: str
    title: str
    works: tuple[str, ...]
    build: Callable[..., Call]
    ours: bool = False
    #: The first call compiles.
    compiled: bool = False
    #: Its results are the others' results, or it has none to compare.
    comparable: bool = True
    needs_jax: bool = False

    def named(self, problem: Problem | FlowProblem, work: str, result: Any) -> dict[str, Any]:
        """This variant's result as float64 tensors by name, the same for all variants of a work."""
        if isinstance(problem, FlowProblem):
            return problem.named(ours.flow_as_leaves(problem, result) if self.ours else result)
        if self.ours and work != "forward":
            result = ours.as_leaves(problem, result)
        return problem.named(work, result)  # type: ignore[arg-type]


_ALL = ("forward", "step", "loss")


def _flow(build: Callable[..., Call], **options: Any) -> Callable[[FlowProblem, str], Call]:
    return lambda problem, work: build(problem, **options)


_VARIANTS = (
    Variant("ours", "ffrl_fast: the operator and autograd", (*_ALL, "operator"), ours.operator, ours=True),
    Variant("ours_by_hand", "ffrl_fast: the operator, the loss by hand", ("step",), ours.operator_by_hand, ours=True),
    Variant(
        "ours_compiled",
        "ffrl_fast: the operator, torch.compile",
        ("step",),
        ours.operator_compiled,
        ours=True,
        compiled=True,
    ),
    Variant("ours_hj_loss", "ffrl_fast.hj_loss and autograd", ("loss",), ours.hj_loss, ours=True),
    Variant("ours_value_and_grad", "ffrl_fast.value_and_grad", ("loss",), ours.value_and_grad, ours=True),
    Variant("products", "bare products, torch.mm", (*_ALL, "operator"), baselines.products, comparable=False),
    Variant("autograd", "eager autograd, one time", ("forward", "step", "loss"), baselines.autograd_shared_time),
    Variant("autograd_per_row", "eager autograd, a time per row", ("step",), baselines.autograd_time_per_row),
    Variant("functional", "torch.func, eager", ("step",), baselines.functional),
    Variant(
        "functional_compiled", "torch.func, torch.compile", ("step",), baselines.functional_compiled, compiled=True
    ),
    Variant("formulas", "formulas by hand, eager", ("step",), baselines.formulas_eager),
    Variant(
        "formulas_compiled",
        "formulas by hand, torch.compile",
        (*_ALL, "operator"),
        baselines.formulas_compiled,
        compiled=True,
    ),
    Variant(
        "formulas_autograd_compiled",
        "formulas and autograd, torch.compile",
        ("step", "loss"),
        baselines.formulas_autograd_compiled,
        compiled=True,
    ),
    Variant("jax_formulas", "formulas by hand, JAX", _ALL, baselines.jax_formulas, compiled=True, needs_jax=True),
    Variant(
        "jax_formulas_autodiff",
        "formulas and autodiff, JAX",
        ("step", "loss"),
        baselines.jax_formulas_autodiff,
        compiled=True,
        needs_jax=True,
    ),
    Variant("jax_autodiff", "autodiff, JAX", _ALL, baselines.jax_autodiff, compiled=True, needs_jax=True),
    Variant(
        "ours", "ffrl_fast.integrate and autograd", ("integrate", "integrate_force"), _flow(ours.integrate), ours=True
    ),
    Variant(
        "ours_per_row",
        "ffrl_fast.integrate, k by row, and autograd",
        ("integrate", "integrate_force"),
        _flow(ours.integrate, per_row=True),
        ours=True,
        comparable=False,
    ),
    Variant(
        "ours_row_sum",
        "ffrl_fast.integrate with row sums, and autograd",
        ("integrate_force",),
        _flow(ours.integrate, row_sum=True),
        ours=True,
        comparable=False,
    ),
    Variant("autograd", "eager autograd, one time", ("integrate", "integrate_force"), _flow(baselines.flow_autograd)),
    Variant(
        "formulas_autograd_compiled",
        "formulas and autograd, torch.compile",
        ("integrate", "integrate_force"),
        _flow(baselines.flow_formulas_compiled),
        compiled=True,
    ),
    Variant(
        "jax_formulas_autodiff",
        "formulas and autodiff, JAX",
        ("integrate", "integrate_force"),
        _flow(baselines.flow_jax_formulas),
        compiled=True,
        needs_jax=True,
    ),
    Variant(
        "paper_code",
        "the paper's code: batch residual, row sums",
        ("integrate_force",),
        _flow(baselines.flow_paper_code),
        comparable=False,
    ),
    Variant(
        "paper_code_no_row_sums",
        "the paper's code without its row sums",
        ("integrate_force",),
        _flow(baselines.flow_paper_code, row_sums=False),
        comparable=False,
    ),
)


def variants(work: str, time: str = "learned") -> list[Variant]:
    """The variants of ``work`` that can run here."""
    absent = {"value_and_grad"} if time == "given" else set()
    jax = importlib.util.find_spec("jax") is not None
    return [
        v
        for v in _VARIANTS
        if work in v.works and v.name.removeprefix("ours_") not in absent and (jax or not v.needs_jax)
    ]


def reference_result(problem: Problem | FlowProblem, work: str) -> dict[str, Any]:
    """What all results of a work are compared with before they are timed."""
    if isinstance(problem, FlowProblem):
        return flow_reference(problem)
    return problem.named(work, baselines.formulas_eager(problem, work)())  # type: ignore[arg-type]


def flow_reference(problem: FlowProblem, block: int = 4096) -> dict[str, Any]:
    """A trajectory's result by eager autograd, summed over blocks of rows: all at once may not fit in memory."""
    sums: dict[str, Any] = {}
    moved = []
    for rows in torch.arange(problem.rows).split(block):
        part, share = copy.copy(problem), len(rows) / problem.rows
        part.rows = len(rows)
        part.leaves = problem.leaves | {"z": problem.leaves["z"].detach()[rows].requires_grad_()}
        part.end_bar = problem.end_bar[rows] / share  # the mean over rows weighs by the share, this sum does not
        found = part.named(baselines.flow_autograd(part)())
        moved.append(found.pop("z") * share)
        sums = {name: sums.get(name, 0.0) + share * x for name, x in found.items()}
    return sums | {"z": torch.cat(moved)}


def make_problem(
    work: str, dim: int, rows: int, time: str = "learned", dtype: str = "float32"
) -> Problem | FlowProblem:
    """The problem of a work by the names that the command line uses."""
    real = {"float32": torch.float32, "float64": torch.float64}[dtype]
    if work.startswith("integrate"):
        return FlowProblem(dim, rows, with_force=work == "integrate_force", dtype=real)
    return Problem(dim, rows, "given" if time == "given" else "learned", real)


def check(variant: Variant, problem: Problem | FlowProblem, work: str, result: Any, exact: dict[str, Any]) -> float:
    """The largest relative error of a result against ``exact``, a :func:`reference_result`.

    Raises:
        ArithmeticError: when it is above :data:`TOLERANCE`.
    """
    found = variant.named(problem, work, result)
    errors = {name: relative_error(x, exact[name]) for name, x in found.items()}
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else math.inf)
    if not errors[worst] <= TOLERANCE:
        raise ArithmeticError(f"{variant.name}, {work}: relative error {errors[worst]:.1e} of {worst}")
    return errors[worst]


def names(*works: str) -> list[tuple[str, str]]:
    """(work, variant) of every row that can be measured here, for parametrised tests."""
    return [(work, v.name) for work in works for v in variants(work)]
