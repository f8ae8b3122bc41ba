"""What the compiled Triton kernels multiply and move, counted by the PTX interpreter."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")

import ptx
from bench import roofline
from ffrl_fast.gpu.engine import Precision
from ffrl_fast.triton_kernels.engine import TritonEngine
from ffrl_fast.triton_kernels.launch import Launch, variant_of
from triton_ptx import Case, Interpreted, Question, redundancy

ELEMENT = {Precision.TF32: 4, Precision.BF16: 2}


def _traffic(launch: Launch, done: ptx.Launch) -> dict[str, ptx.Traffic]:
    """By the name of the argument."""
    names = [name for name, kind in variant_of(launch).signature if kind != "constexpr"]
    return {names[place]: counts for place, counts in done.traffic.items()}


def _multiply_adds(launch: Launch) -> int:
    """Those of a launch's products, padded as they are."""
    given: dict[str, Any] = launch.arguments | launch.constants
    name = variant_of(launch).name
    if name == "layer":
        return launch.grid[0] * given["BLOCK_ROWS"] * given["pitch"] * given["inner"]
    if name in ("forward_rows", "backward_rows"):
        rows, dim, width = launch.grid[0] * given["BLOCK_ROWS"], given["DIM"], given["WIDTH"]
        once = rows * (dim * width + width * width)
        return once if given["VALUE_ONLY"] else 2 * once
    if name == "weight_gradient":
        networks = launch.grid[2]
        blocks = given["starts"][networks].item() if given["grouped"] else networks * given["blocks"]
        across = [-(-given[f"{x}_pitch"] // given[f"BLOCK_{x.upper()}"]) * given[f"BLOCK_{x.upper()}"] for x in "xy"]
        return blocks * given["block_rows"] * across[0] * across[1] * (1 + given["has_second"])
    return 0


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.BF16])
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", [Case(50, 24, 40), Case(37, 40, 24, 2, 2, "gates")], ids=["fused", "by layers"])
def test_every_product_is_made_by_the_matrix_units(case: Case, architecture: int, precision: Precision) -> None:
    """None by fused multiply-adds; and no more of it than the layouts of the warps say."""
    launcher = Interpreted(architecture)
    Question(case).found(launcher, precision)
    seen = set()
    for launch, done in launcher.launches:
        variant, needed = variant_of(launch), _multiply_adds(launch)
        if needed:
            seen.add(variant.name)
        assert needed <= done.multiply_adds <= redundancy(variant, architecture) * needed, variant.name
    assert seen == {"weight_gradient", *(("layer",) if case.depth > 1 else ("forward_rows", "backward_rows"))}


@pytest.mark.parametrize(
    ("architecture", "precision", "width", "reads_of_w_hid"),
    [
        (80, Precision.TF32, 64, 1),
        (90, Precision.TF32, 64, 2),  # the second from its transpose: wgmma takes tf32 along the inner index only
        (90, Precision.BF16, 64, 1),
        (80, Precision.BF16, 128, 1),
    ],
)
def test_a_row_block_reads_and_writes_what_it_must(
    architecture: int, precision: Precision, width: int, reads_of_w_hid: int
) -> None:
    """z once, W_in on the way out and on the way back, nothing but outputs written."""
    question, launcher = Question(Case(100, width, width, networks=1, selection="potential")), Interpreted(architecture)
    engine = TritonEngine(architecture, launch=launcher)
    engine.forward(question.rows, precision, keep=False, drive=question.drive)
    launch, done = next(x for x in launcher.launches if variant_of(x[0]).name == "forward_rows")
    traffic = _traffic(launch, done)
    matrix = launch.grid[0] * ELEMENT[precision] * width * width

    def reads(name: str) -> float:
        return sum(traffic[x].loaded for x in (name, f"{name}_transposed") if x in traffic) / matrix

    assert traffic["z"].loaded == traffic["z"].distinct_loaded == 4 * 100 * width
    assert reads("w_hid") == reads_of_w_hid and reads("w_in") == 2
    written = {name: counts.stored for name, counts in traffic.items() if counts.stored}
    assert written == {"u": 400, "dt": 400, "residual": 400, "grad": 400 * width}


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.BF16])
def test_the_roofline_counts_the_bytes_that_are_moved(precision: Precision) -> None:
    """Of what belongs to rows each byte once a launch, but for numbers that a row has one or two of."""
    rows, width = 128, 64
    question, launcher = Question(Case(rows, width, width, networks=1, selection="potential")), Interpreted(80)
    question.found(launcher, precision)
    moved: dict[str, list[float]] = {}
    for launch, done in launcher.launches:
        counts = [
            (t.distinct_loaded + t.distinct_stored) / rows
            for name, t in _traffic(launch, done).items()
            if not name.startswith(("w_", "theta", "tau", "dtau", "partial", "sums"))
        ]
        moved.setdefault(variant_of(launch).name, []).append(sum(counts))
    outputs, kept = moved["forward_rows"]
    counted = {
        "forward": outputs,
        "forward for a backward (Triton)": kept,
        "backward of rows (Triton)": sum(moved["gather"]) + sum(moved["backward_rows"]),
        "weight gradients": sum(moved["weight_gradient"]),
    }
    by_name = {kernel.name: kernel for kernel in roofline.KERNELS}
    for name, found in counted.items():
        assert found == pytest.approx(by_name[name].bytes(width, ELEMENT[precision]), abs=32), name
