"""What the compiled CUDA kernels multiply, and all that they read and write, counted by the PTX interpreter."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import pytest
from torch import Tensor

from bench.kernel_budget import DYNAMIC_SHARED
from cuda_kernels import RESIDENT, STREAMED, Case, Question
from cuda_ptx import execute
from ffrl_fast.gpu.engine import Precision

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ffrl_fast._cuda") is None or shutil.which("nvcc") is None,
    reason="this build has no CUDA kernels, or nvcc is not on the PATH",
)


@pytest.mark.parametrize("shared_bytes", [RESIDENT, STREAMED])
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("moments", [0, 2])
def test_every_product_is_made_by_the_matrix_units(moments: int, precision: Precision, shared_bytes: int) -> None:
    """At a size without padding they make as many multiply-adds as there are products of B×H×D; ieee takes three."""
    rows, size = 64, 64
    question = Question(Case(rows, size, size, moments=moments, precision=precision, shared_bytes=shared_bytes))
    _, record = execute(question)

    def products(*kernels: str) -> float:
        made = sum(launch.multiply_adds for name, launch in record.launches if any(k in name for k in kernels))
        return made / (rows * size * size) / (3 if precision == Precision.IEEE else 1)

    # W_in z, W s, Wᵀ ĥ, W_inᵀ g_a.
    assert products("path_kernel", "forward_kernel") == 4 * max(moments, 1)
    # The first three again, on a path, whose ∇u is not kept, all four; W_in ḡ, W d_v, Wᵀ d_p, W_inᵀ d_q; and two outer
    # products for each matrix.
    assert products("backward_kernel", "matrix_gradient_kernel") == (12 * moments or 11)


def test_shared_memory_of_the_weight_gradients_is_what_their_occupancy_is_reckoned_with() -> None:
    _, record = execute(Question(Case(64, 24, 40, precision=Precision.TF32, shared_bytes=STREAMED)))
    (given,) = {
        shared for (name, _), shared in zip(record.launches, record.shared, strict=True) if "matrix_gradient" in name
    }
    assert given == DYNAMIC_SHARED["matrix_gradient_kernel"]


@pytest.mark.parametrize("precision", list(Precision))
def test_all_steps_touch_memory_once(precision: Precision) -> None:
    """A block reads its rows and the packed weights once, then nothing but each moment's τ, and writes the outputs."""
    question = Question(Case(40, 24, 40, moments=5, precision=precision))
    found, record = execute(question)
    traffic = record.traffic_of("forward_kernel" if precision == Precision.IEEE else "path_kernel")

    def of(x: Tensor) -> Any:
        return traffic.pop(x.untyped_storage().data_ptr())

    blocks = 3  # of 16 rows
    z = of(question.inputs["z"])
    assert z.loaded == z.distinct_loaded == question.inputs["z"].nbytes and z.stored == 0
    for name in ("tau", "dtau"):
        assert of(question.inputs[name])[:2] == (blocks * question.inputs[name].nbytes, 0), name
    for name in ("path", "u", "dt", "residual"):
        written = of(found[name])
        assert written.stored == written.distinct_stored == found[name].nbytes and written.loaded == 0, name
    # Padded to 64 units, 32 features; two bf16 a word, with pitches of their own.
    vectors = 3 * 64 + 4
    words = (64 * (32 + 8) + 64 * (64 + 8)) // 2 if precision == Precision.BF16 else 64 * (32 + 4) + 64 * (64 + 4)
    (weights,) = (x for x in traffic.values() if x.loaded or x.stored)
    assert weights.loaded == blocks * 4 * (words + vectors) and weights.block_loaded == weights.loaded // blocks
    assert weights.stored == 0
