"""The Triton engine with its kernels compiled for GPUs and executed in the PTX interpreter, against float64.

The host code is the engine's own; each launch is compiled as it would be launched. Executed, not run on a GPU: see
docs/gpu.md for what this cannot see.
"""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton

import ptx
from ffrl_fast import triton_kernels as kernels
from ffrl_fast.gpu.engine import Precision
from ffrl_fast.tolerances import relative_error
from ffrl_fast.triton_kernels.launch import variant_of
from triton_ptx import BOUNDS, Case, Interpreted, Question, check, compiled


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", [Case(50, 24, 40), Case(37, 40, 24, 2, 2, "gates")], ids=["fused", "by layers"])
def test_every_precision_and_architecture(case: Case, architecture: int, precision: Precision) -> None:
    check(case, architecture, precision)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("case", [Case(50, 24, 40), Case(37, 40, 24, 2, 2, "gates")], ids=["fused", "by layers"])
def test_bfloat16_tensors(case: Case, architecture: int) -> None:
    check(case, architecture, Precision.BF16, torch.bfloat16)


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


#: Lines of which a fault changes nothing that anyone could see, by kind.
HARMLESS = {
    "no barrier": {
        # The compiler also puts barriers between a loop's last accesses and what does not meet them.
        "for n in tl.range(0, WIDTH, BLOCK_UNITS, num_stages=STAGES):",
        "for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):",
        # Needed where layouts differ; in some variants they agree.
        "tl.debug_barrier()  # d_a is read back in another layout than it was written in",
    },
    "no wait": {
        # Behind a loop: all that was asked for has been waited for.
        "for n in tl.range(0, WIDTH, BLOCK_UNITS, num_stages=STAGES):",
        "for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):",
    },
    "a comparison looser by one": {
        # Which thread writes what several hold: another one writes the same.
        "tl.store(u + first_out + row, value.to(u.dtype.element_ty), mask=valid)",
        "return core.reduce(input, axis, _sum_combine, keep_dims=keep_dims)",
        "if want_dtau != 0:",
        # Whether there is a tile to ask for ahead, which is then not used.
        "return tl.load(w + rows[:, None] * pitch + columns[None, :])",
        "for n in tl.range(0, WIDTH, BLOCK_UNITS, num_stages=STAGES):",
        "for d in tl.range(0, DIM, BLOCK_DIM, num_stages=STAGES):",
        # The value of a padding unit, which weights of zero multiply.
        "return tl.load(x + column, mask=column < size, other=0.0).to(TYPE)[None, :]",
        # A column of a tile's edge that is not stored.
        "inside_x = (column_x < x_pitch)[None, :]",
        "inside_y = (column_y < y_pitch)[None, :]",
    },
    # A division by a power of two, of a number below it either way.
    "an immediate factor or shift larger by one": {
        "column_y = tl.program_id(0) % across * BLOCK_Y + tl.arange(0, BLOCK_Y)",
    },
}
_FAULTY_CASES = [
    Case(70, 60, 50, networks=2),
    Case(70, 60, 50, networks=1, selection="potential"),
    Case(45, 60, 50, networks=2, selection="gates", row_times=True),
    Case(70, 64, 64, networks=1, selection="potential", row_times=True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "precision"), [(80, Precision.TF32), (90, Precision.BF16)])
@pytest.mark.parametrize("kernel", ["forward_rows", "backward_rows", "weight_gradient"])
def test_every_barrier_wait_mask_and_stride_shows(kernel: str, architecture: int, precision: Precision) -> None:
    """A fault planted in the compiled kernel, one line of the source at a time, is reported in some case."""
    planted, shown = set(), set()
    for question in map(Question, _FAULTY_CASES):
        exact, healthy = question.exact(), Interpreted(architecture)
        question.found(healthy, precision)
        for variant in {variant_of(launch) for launch, _ in healthy.launches}:
            if variant.name != kernel:
                continue
            text = compiled(variant, architecture).ptx
            for mutant in ptx.mutate.mutants_by_source(text, ("barrier", "wait", "predicate", "stride")):
                what, place, _ = mutant.description.split(", ")
                planted.add((what, place))
                if (what, place) not in shown and _shows(question, exact, architecture, precision, kernel, mutant):
                    shown.add((what, place))
    assert len(planted) > 12
    hidden = {(what, _source_line(place)) for what, place in planted - shown}
    assert {x for x in hidden if x[1] not in HARMLESS[x[0]]} == set()


def _shows(
    question: Question,
    exact: dict[str, Tensor],
    architecture: int,
    precision: Precision,
    kernel: str,
    mutant: ptx.mutate.Mutant,
) -> bool:
    launcher = Interpreted(architecture, seed=1, mutant=(kernel, mutant))
    try:
        found = question.found(launcher, precision)
    except ptx.Fault:
        return True
    right = all(relative_error(found[n], exact[n]) < BOUNDS[precision] for n in exact)
    return not right or bool(launcher.races)


def _source_line(place: str) -> str:
    """ "rows.py:95" → the text of that line, in the kernels or in Triton's own library."""
    name, number = place.split(":")
    folders = [Path(kernels.__file__).parent, Path(triton.language.__file__).parent]
    path = next(folder / name for folder in folders if (folder / name).is_file())
    return linecache.getline(str(path), int(number)).strip()
