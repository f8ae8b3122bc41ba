"""What Triton makes, for sm_80 and (with wgmma) sm_90, against float64; its barriers and waits taken out one by one."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

import ptx

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")


@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    i, j, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows, columns = i[:, None] < M, j[None, :] < N
    sum = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        x = tl.load(a + i[:, None] * K + k0 + k[None, :], mask=rows & (k0 + k[None, :] < K), other=0.0)
        y = tl.load(b + (k0 + k[:, None]) * N + j[None, :], mask=columns & (k0 + k[:, None] < K), other=0.0)
        sum = tl.dot(x, y, sum, input_precision=PRECISION)
    tl.store(c + i[:, None] * N + j[None, :], sum, mask=rows & columns)


@triton.jit
def softmax(x, y, N, BN: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BN)
    value = tl.load(x + row * N + j, mask=j < N, other=-float("inf"))
    weight = tl.exp(value - tl.max(value, 0))
    tl.store(y + row * N + j, weight / tl.sum(weight, 0), mask=j < N)


FORMATS = {
    "ieee": ("*fp32", torch.float32, "ieee", 1e-6),
    "tf32": ("*fp32", torch.float32, "tf32", 2e-3),
    "bf16": ("*bf16", torch.bfloat16, "ieee", 1e-6),
}


@cache
def compiled(arch: int, format: str) -> ptx.triton.Kernel:
    pointer, _, precision, _ = FORMATS[format]
    signature = {"a": pointer, "b": pointer, "c": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    constants = {"BM": 64, "BN": 64, "BK": 32, "PRECISION": precision}
    return ptx.triton.compile(matmul, signature, constants, arch, num_stages=3, divisible=list(signature))


def run(kernel: ptx.triton.Kernel, format: str, m: int, n: int, k: int, seed: int = 0) -> tuple[ptx.Launch, float]:
    """The launch, and the error relative to the largest entry; NaN counts as infinite."""
    _, dtype, _, _ = FORMATS[format]
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((m, k), (k, n)))
    c = ptx.fresh(m, n)
    launch = kernel.launch((-(-m // 64), -(-n // 64)), (a, b, c, m, n, k), seed=seed)
    exact = a.double() @ b.double()
    error = float((c - exact).abs().max() / exact.abs().max())
    return launch, math.inf if math.isnan(error) else error


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("format", FORMATS)
def test_matmul(arch, format):
    m, n, k = 144, 80, 112
    launch, error = run(compiled(arch, format), format, m, n, k)
    launch.require_no_races()
    assert error < FORMATS[format][3]
    if format != "ieee":
        shape = {80: "m16n8", 90: "m64n64"}[arch] + {"tf32": "k8.tf32", "bf16": "k16.bf16"}[format]
        each = (4 * 8 if arch == 80 else 4) * (4 if format == "tf32" else 2)  # of a block's slab of 32 k's
        assert launch.matrix == {shape: 3 * 2 * 4 * each}
    size = FORMATS[format][1].itemsize
    assert launch.traffic[0] == (2 * m * k * size, 0, m * k * size, 0, 64 * k * size, 0)
    assert launch.traffic[1] == (3 * k * n * size, 0, k * n * size, 0, k * 64 * size, 0)
    assert launch.traffic[2] == (0, m * n * 4, 0, m * n * 4, 0, 64 * 64 * 4)


@triton.jit
def product_of_transposes(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    i, j, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    sum = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        x, y = tl.load(a + (k0 + k[:, None]) * M + i[None, :]), tl.load(b + j[:, None] * K + k0 + k[None, :])
        scaled = (tl.trans(x) * 2).to(x.dtype)
        sum = tl.dot(scaled, tl.trans(y), sum)
    tl.store(c + i[:, None] * N + j[None, :], sum)


@pytest.mark.parametrize(
    "bm, bn, bk, num_warps", [(64, 32, 16, 4), (64, 128, 64, 4), (128, 64, 32, 8), (128, 256, 32, 8)]
)
@pytest.mark.parametrize("format", ["tf32", "bf16"])
@pytest.mark.parametrize("arch", [80, 90])
def test_layouts_of_matrix_operands(arch, format, bm, bn, bk, num_warps):
    """Operands in registers and in shared memory, either way round, by all widths of swizzle; two groups of warps."""
    pointer, dtype, _, tolerance = FORMATS[format]
    signature = {"a": pointer, "b": pointer, "c": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    constants = {"BM": bm, "BN": bn, "BK": bk}
    kernel = ptx.triton.compile(product_of_transposes, signature, constants, arch, num_warps, divisible=list(signature))
    generator, k = torch.Generator().manual_seed(0), 64
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((k, bm), (bn, k)))
    c = ptx.fresh(bm, bn)
    launch = kernel.launch((1,), (a, b, c, bm, bn, k)).require_no_races()
    exact = 2 * a.double().T @ b.double().T
    assert (c - exact).abs().max() < tolerance * exact.abs().max()
    assert launch.matrix and all(shape.startswith("m64" if arch == 90 else "m16") for shape in launch.matrix)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("format", FORMATS)
def test_every_barrier_and_wait_that_is_missing_is_reported(arch, format):
    kernel, unseen = compiled(arch, format), []
    mutants = list(ptx.mutate.mutants(kernel.ptx, ("barrier", "wait")))
    for mutant in mutants:
        launch, _ = run(kernel.with_ptx(mutant.ptx), format, 64, 64, 160)
        if not launch.races:
            unseen.append(mutant)
    assert len(mutants) >= 8
    # The first barrier comes before the second slab's copies, when nothing has been read yet: it guards nothing.
    assert len(unseen) == 1, [mutant.description for mutant in unseen]
    line = int(unseen[0].description.split("line ")[1].split(":")[0])
    before = "\n".join(kernel.ptx.splitlines()[:line])
    assert not any(read in before for read in ("ld.shared", "ldmatrix", "wgmma.mma")), unseen[0].description


@pytest.mark.parametrize("arch", [80, 90])
def test_softmax(arch):
    kernel = ptx.triton.compile(softmax, {"x": "*fp32", "y": "*fp32", "N": "i32"}, {"BN": 512}, arch)
    x = 4 * torch.randn(5, 324, generator=torch.Generator().manual_seed(0))
    y = ptx.fresh(5, 324)
    kernel.launch((5,), (x, y, 324)).require_no_races()
    torch.testing.assert_close(y.double(), x.double().softmax(1), rtol=3e-6, atol=0)
    for mutant in ptx.mutate.mutants(kernel.ptx, ("barrier",)):
        assert kernel.with_ptx(mutant.ptx).launch((5,), (x, y, 324)).races, mutant.description


def test_a_parameter_without_a_type_is_named():
    with pytest.raises(ValueError, match="N"):
        ptx.triton.compile(softmax, {"x": "*fp32", "y": "*fp32"}, {"BN": 512})
