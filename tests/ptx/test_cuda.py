"""What nvcc makes of CUDA C++, executed, against numpy; the double-buffered product and its mutants."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ptx

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


@cache
def snippets_text(arch: str) -> str:
    return ptx.compile_cuda(HERE / "snippets.cu", arch)


@cache
def snippets(arch: str = "sm_80") -> ptx.Module:
    return ptx.Module(snippets_text(arch))


def snippets_without(instruction: str, entry: str) -> ptx.Module:
    """With the first such instruction of a kernel left out."""
    text = snippets_text("sm_80")
    start = text.index(instruction, text.index(f".entry {entry}"))
    return ptx.Module(text[:start] + text[text.index(";", start) + 1 :])


@cache
def product(bf16: bool) -> str:
    return ptx.compile_cuda(HERE / "product.cu", defines={"BF16": 1} if bf16 else {})


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """NaN counts as infinite."""
    error = (found.double() - exact.double()).abs().max() / exact.abs().max()
    return math.inf if torch.isnan(error) else float(error)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_functions():
    x = normals(300) * 3
    y = ptx.fresh(7, 300)
    snippets().launch("functions", (3,), (128,), (x, y, 300)).require_no_races()
    exact = x.double()
    names = [
        torch.exp,
        torch.tanh,
        lambda v: torch.sin((1000 * x).double()),
        lambda v: v.abs() ** np.float32(1.7).item(),
    ]
    names += [lambda v: v / np.float32(3.7).item(), torch.exp, torch.erf]
    for row, function in zip(y, names, strict=True):
        torch.testing.assert_close(row.double(), function(exact), rtol=2e-6, atol=1e-7)


def test_doubles():
    x = normals(100).double() * 3
    y = ptx.fresh(4, 100, dtype=torch.float64)
    snippets().launch("doubles", (1,), (128,), (x, y, 100)).require_no_races()
    for row, exact in zip(y, [x.exp(), x.tanh(), x / 3.1, x.abs().sqrt()], strict=True):
        torch.testing.assert_close(row, exact, rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize("seed", range(3))
def test_sums_by_shuffles_and_atomics(seed):
    x, out, total = normals(1000), ptx.fresh(3), torch.zeros(1)
    launch = snippets().launch("sums", (3,), (96,), (x, out, total, 1000), seed=seed).require_no_races()
    assert relative_error(out.sum(), x.double().sum()) < 1e-5
    assert relative_error(total, x.double().sum()) < 1e-5
    assert launch.traffic[2].loaded == launch.traffic[2].stored == 3 * 4


def test_last_block_is_ordered_by_its_fence_and_counter():
    x = normals(4 * 64)
    for module, racy in ((snippets(), False), (snippets_without("membar.gl", "last_block"), True)):
        partial, out, counter = ptx.fresh(4, 64), ptx.fresh(64), torch.zeros(1, dtype=torch.int32)
        launch = module.launch("last_block", (4,), (64,), (x, partial, out, counter))
        assert relative_error(out, 2 * x.reshape(4, 64).double().sum(0)) < 1e-6
        assert bool(launch.races) is racy
    assert "another block wrote in buffer 1" in launch.races[0].kind


def test_votes():
    x = torch.randint(-100, 100, (32,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    out = ptx.fresh(8, 32, dtype=torch.int32)
    snippets().launch("votes", (1,), (32,), (x, out)).require_no_races()
    v, found = x.numpy().astype(np.int64), out.numpy().view(np.uint32)
    bits = 1 << np.arange(32, dtype=np.int64)
    expected = [
        (bits * (v > 0)).sum(),
        (v > 90).any(),
        (v > -200).all(),
        [(bits * ((v & 3) == k)).sum() for k in v & 3],
    ]
    expected += [v.sum() & 0xFFFFFFFF, v.max(), (v > 0).sum()]
    expected += [np.where(np.arange(32) < 20, v[np.arange(32) ^ 3] & 0xFFFFFFFF, 0xFFF00000)]
    for row, values in zip(found, expected, strict=True):
        assert (row == np.asarray(values)).all()


@pytest.mark.parametrize("seed", range(5))
def test_named_barriers_order_their_warps(seed):
    x, y = normals(4, 64), ptx.fresh(4, 64)
    snippets().launch("pipeline", (1,), (128,), (x, y, 4), seed=seed).require_no_races()
    assert torch.equal(y, 2 * x.flip(1))


def test_lanes_of_a_warp_need_a_syncwarp():
    x, y = normals(32), ptx.fresh(32)
    snippets().launch("within_warp", (1,), (32,), (x, y)).require_no_races()
    assert torch.equal(y, x.reshape(16, 2).flip(1).reshape(32))
    launch = snippets_without("bar.warp.sync", "within_warp").launch("within_warp", (1,), (32,), (x, y))
    assert [race.kind for race in launch.races] == ["read without a barrier after the write"]


def test_wmma():
    a, b, c = normals(16, 16).half(), normals(16, 16, seed=1).half(), ptx.fresh(16, 16)
    launch = snippets().launch("wmma_product", (1,), (32,), (a, b, c))
    assert relative_error(c, 2 * a.double() @ b.double().T) < 1e-6
    assert launch.matrix == {"m16n16k16.f16": 1}


def test_double_mma():
    a, b, c = normals(8, 4).double(), normals(4, 8).double(), ptx.fresh(8, 8, dtype=torch.float64)
    snippets().launch("double_product", (1,), (32,), (a, b, c))
    assert relative_error(c, a @ b) < 1e-15


def test_ldmatrix_trans_and_stmatrix():
    x = torch.arange(256, dtype=torch.int16).reshape(4, 8, 8)
    y = ptx.fresh(4, 8, 8, dtype=torch.int16)
    snippets("sm_90").launch("transposed", (1,), (32,), (x, y)).require_no_races()
    assert torch.equal(y, x.transpose(1, 2))


def test_histogram():
    x = torch.randint(0, 1000, (500,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    counts, largest, sum_ = (
        torch.zeros(8, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1).double(),
    )
    snippets().launch("histogram", (4,), (128,), (x, counts, largest, sum_, 500)).require_no_races()
    assert torch.equal(counts.long(), torch.bincount(x.long() & 7, minlength=8))
    assert largest.item() == x.max() and sum_.item() == x.sum()


@pytest.mark.parametrize("bf16", [False, True], ids=["tf32", "bf16"])
def test_product(bf16):
    dtype = torch.bfloat16 if bf16 else torch.float32
    m, n, k = 64, 96, 80
    a, b, c = normals(m, k).to(dtype), normals(n, k, seed=1).to(dtype), ptx.fresh(m, n)
    launch = ptx.Module(product(bf16)).launch("product", (n // 32, m // 32), (128,), (a, b, c, n, k), seed=1)
    launch.require_no_races()
    exact = a.double() @ b.double().T
    assert relative_error(c, exact) < (1e-6 if bf16 else 2e-3)
    if not bf16:  # the operands truncated to tf32, and nothing else
        kept = [(x.view(torch.int32) & -0x2000).view(torch.float32).double() for x in (a, b)]
        assert relative_error(c, kept[0] @ kept[1].T) < 1e-6


@pytest.mark.parametrize("bf16", [False, True], ids=["tf32", "bf16"])
def test_counts_of_the_product_are_exact(bf16):
    dtype, size = (torch.bfloat16, 2) if bf16 else (torch.float32, 4)
    m, n, k = 64, 96, 80
    a, b, c = normals(m, k).to(dtype), normals(n, k).to(dtype), ptx.fresh(m, n)
    launch = ptx.Module(product(bf16)).launch("product", (n // 32, m // 32), (128,), (a, b, c, n, k))
    blocks, slabs, warps = 6, k // 16, 4
    assert launch.matrix == {
        "m16n8k16.bf16" if bf16 else "m16n8k8.tf32": blocks * warps * slabs * 2 * (1 if bf16 else 2)
    }
    assert launch.count("bar.sync") == blocks * warps * slabs * 2
    assert launch.count("cp.async.wait_group") == blocks * warps * slabs
    assert launch.count("ldmatrix") == (blocks * warps * slabs * 2 if bf16 else 0)
    assert launch.classes["mma"] == launch.matrix.total()
    # Every block reads 32 rows of a and of b, once; c is written once.
    assert launch.traffic[0] == (blocks * 32 * k * size, 0, m * k * size, 0, 32 * k * size, 0)
    assert launch.traffic[1] == (blocks * 32 * k * size, 0, n * k * size, 0, 32 * k * size, 0)
    assert launch.traffic[2] == (0, m * n * 4, 0, m * n * 4, 0, 32 * 32 * 4)


@pytest.mark.parametrize("bf16", [False, True], ids=["tf32", "bf16"])
def test_mutants_of_the_product_are_reported(bf16):
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = normals(64, 64).to(dtype), normals(64, 64, seed=1).to(dtype)
    exact = a.double() @ b.double().T
    reported: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for mutant in ptx.mutate.mutants(product(bf16)):
        kind, c = mutant.description.split(",")[0], ptx.fresh(64, 64)
        try:
            launch = ptx.Module(mutant.ptx).launch("product", (2, 2), (128,), (a, b, c, 64, 64), limit=1_000_000)
        except ptx.Fault:
            reported[kind] += 1
            continue
        # Barriers and waits must be missed by their races: the numbers may happen to be right.
        seen = launch.races or (kind not in ("no barrier", "no wait") and not relative_error(c, exact) < 2e-3)
        (reported if seen else missed)[kind] += 1
    # Some comparisons never see both sides equal: that sizes are positive, that a copying loop goes round again.
    assert missed.pop("a comparison looser by one", 0) <= (5 if bf16 else 1)
    assert not missed, missed
    assert len(reported) == (4 if bf16 else 5) and reported["no barrier"] == 2 and reported["no wait"] == 1
