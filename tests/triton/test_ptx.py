"""The Triton engine with its kernels compiled for GPUs and executed in the PTX interpreter, against float64.

The host code is the engine's own; each launch is compiled as it would be launched. Executed, not run on a GPU: see
docs/gpu.md for what this cannot see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import ptx
from ffrl_fast import PotentialBank, reference
from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.tolerances import BF16_PRODUCTS, TF32_PRODUCTS, relative_error
from ffrl_fast.triton_kernels.engine import TritonEngine
from ffrl_fast.triton_kernels.launch import variant_of
from triton_ptx import Interpreted, compiled

BOUNDS = {Precision.IEEE: 2e-6, Precision.TF32: TF32_PRODUCTS, Precision.BF16: BF16_PRODUCTS}


@dataclass(frozen=True)
class Case:
    rows: int
    dim: int
    width: int
    depth: int = 1
    networks: int = 3
    selection: Literal["index", "gates", "potential"] = "index"
    row_times: bool = False


class Question:
    """Random inputs of a case, and the exact outputs and gradients beside them."""

    def __init__(self, case: Case) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        bank = PotentialBank(case.networks, case.dim, case.width, case.depth)
        bank.reset_parameters(g)
        times = case.rows if case.row_times else 1
        tau, dtau = 0.5 * normal(case.networks, times, case.width), normal(case.networks, times, case.width)
        index = torch.randint(0, case.networks, (case.rows,), generator=g) if case.selection == "index" else None
        gates = torch.rand(case.rows, case.networks, generator=g) if case.selection == "gates" else None
        potential = case.networks - 1 if case.selection == "potential" else -1
        theta = 1.5 * bank.theta.detach()
        self.rows = Rows(normal(case.rows, case.dim), theta, bank.shape, tau, dtau, potential, index, gates)
        self.drive = normal(case.rows)
        self.cotangents = Cotangents(*[normal(case.rows, *more) for more in ((), (), (case.dim,), ())])

    def exact(self) -> dict[str, Tensor]:
        r, bars = self.rows, self.cotangents
        inputs = {n: getattr(r, n) for n in ("z", "theta", "tau", "dtau", "gates")}
        leaves = {n: x.double().requires_grad_() for n, x in inputs.items() if x is not None}
        field = reference.potential_field(
            leaves["z"],
            torch.zeros(1, dtype=torch.float64),
            leaves["theta"],
            r.shape,
            leaves["tau"],
            leaves["dtau"],
            potential=r.potential,
            index=r.index,
            gates=leaves.get("gates"),
        )
        residual = field.dt + 0.5 * field.grad.square().sum(1) + self.drive
        outputs = {"u": field.u, "dt": field.dt, "grad": field.grad, "residual": residual}
        total = sum((outputs[n] * getattr(bars, n)).sum() for n in outputs)
        assert isinstance(total, Tensor)
        gradients = torch.autograd.grad(total, list(leaves.values()))
        return outputs | {f"d_{n}": x for n, x in zip(leaves, gradients, strict=True)}

    def found(self, launcher: Interpreted, precision: Precision) -> dict[str, Tensor]:
        engine = TritonEngine(launcher.architecture, launch=launcher)
        out = engine.forward(self.rows, precision, keep=True, drive=self.drive)
        gradients = engine.backward(self.rows, precision, out, self.cotangents, Wanted())
        found = {n: getattr(out, n) for n in ("u", "dt", "grad", "residual")}
        assert all(isinstance(x, Tensor) for x in found.values())
        return found | {f"d_{n}": x for n, x in gradients._asdict().items() if x is not None}


def check(case: Case, architecture: int, precision: Precision, seed: int = 0) -> Interpreted:
    question, launcher = Question(case), Interpreted(architecture, seed)
    exact, found = question.exact(), question.found(launcher, precision)
    assert launcher.races == []
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < BOUNDS[precision], errors
    return launcher


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", [Case(50, 24, 40), Case(37, 40, 24, 2, 2, "gates")], ids=["fused", "by layers"])
def test_every_precision_and_architecture(case: Case, architecture: int, precision: Precision) -> None:
    launcher = check(case, architecture, precision)
    products = [n for n in launcher.matrix if n in ("forward_rows", "backward_rows", "layer", "weight_gradient")]
    assert len(products) >= 2
    for name in products:
        # ieee sums by fused multiply-adds; the others have no product outside of the matrix units.
        assert bool(launcher.matrix[name]) == (precision != Precision.IEEE), name


@pytest.mark.parametrize(
    ("case", "architecture", "precision"),
    [
        (Case(1, 1, 1, networks=1, selection="potential"), 80, Precision.TF32),
        (Case(130, 65, 130, networks=2), 80, Precision.TF32),
        (Case(70, 64, 64, selection="gates", row_times=True), 90, Precision.BF16),
        (Case(70, 226, 226, networks=2), 80, Precision.TF32),
        (Case(70, 324, 324, networks=1, selection="potential"), 90, Precision.BF16),
        (Case(40, 400, 520, networks=1, selection="gates"), 90, Precision.TF32),
        (Case(40, 330, 70, depth=3, networks=2), 80, Precision.IEEE),
    ],
    ids=str,
)
def test_sizes(case: Case, architecture: int, precision: Precision) -> None:
    check(case, architecture, precision)


def test_the_same_bits_in_every_order_of_warps_and_blocks() -> None:
    question = Question(Case(150, 24, 40))
    first, second = (question.found(Interpreted(80, seed), Precision.TF32) for seed in (1, 2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("architecture", "precision", "width"),
    [(80, Precision.TF32, 64), (90, Precision.BF16, 64), (80, Precision.BF16, 128)],
)
def test_a_row_block_reads_and_writes_what_it_must(architecture: int, precision: Precision, width: int) -> None:
    """z once, each weight matrix at most twice a block (on the way out and back), nothing but outputs written."""
    question, launcher = Question(Case(100, width, width, networks=1, selection="potential")), Interpreted(architecture)
    engine = TritonEngine(architecture, launch=launcher)
    engine.forward(question.rows, precision, keep=False, drive=question.drive)
    launch, done = next(x for x in launcher.launches if variant_of(x[0]).name == "forward_rows")
    names = [name for name, kind in variant_of(launch).signature if kind != "constexpr"]
    traffic = {names[place]: counts for place, counts in done.traffic.items()}
    (blocks,) = launch.grid
    element = 2 if precision == Precision.BF16 else 4
    matrix = element * width * width
    assert traffic["z"].loaded == traffic["z"].distinct_loaded == 4 * 100 * width
    assert traffic["w_hid"].loaded == blocks * matrix
    assert traffic["w_in"].loaded == 2 * blocks * matrix
    written = {name: counts.stored for name, counts in traffic.items() if counts.stored}
    assert written == {"u": 400, "dt": 400, "residual": 400, "grad": 400 * width}


@pytest.mark.planted
@pytest.mark.parametrize(("architecture", "precision"), [(80, Precision.TF32), (90, Precision.BF16)])
@pytest.mark.parametrize("kernel", ["forward_rows", "backward_rows", "weight_gradient"])
def test_barriers_and_waits_that_are_taken_out_are_reported(
    kernel: str, architecture: int, precision: Precision
) -> None:
    question = Question(Case(70, 64, 64, networks=2))
    exact = question.exact()
    healthy = Interpreted(architecture)
    question.found(healthy, precision)
    launch = next(x for x, _ in healthy.launches if variant_of(x).name == kernel)
    text = compiled(variant_of(launch), architecture).ptx
    planted = list(ptx.mutate.mutants(text, ("barrier", "wait")))
    assert len(planted) > 10
    silent = []
    for mutant in planted:
        launcher = Interpreted(architecture, seed=1, mutant=(kernel, mutant))
        try:
            found = question.found(launcher, precision)
        except ptx.Fault:
            continue
        right = all(relative_error(found[n], exact[n]) < BOUNDS[precision] for n in exact)
        if right and not launcher.races:
            silent.append(mutant.description)
    # The compiler puts some between accesses that do not meet.
    assert 5 * len(silent) <= len(planted), silent
