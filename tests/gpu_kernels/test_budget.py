"""Every GPU kernel as compiled for every architecture, against its budget."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator

import pytest

pytest.importorskip("triton")

import triton

from bench import kernel_budget, machine_code, matrix_work, roofline
from bench.kernel_budget import ARCHITECTURES, BUDGET, Kernel, complaints
from bench.machine_code import Usage, occupancy
from bench.matrix_work import Product
from ffrl_fast.triton_kernels import launch

USAGE = Usage(100, 0, 4096, 0, {"16": 8, "4": 2}, {"HMMA.1688.F32.TF32": 64})


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_triton_kernels(architecture: int) -> None:
    kernels = kernel_budget.triton_kernels(architecture, os.cpu_count() or 1)
    assert kernel_budget.check(architecture, kernels) == []


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.skipif(
    importlib.util.find_spec("ffrl_fast._cuda") is None, reason="this build of ffrl_fast has no CUDA kernels"
)
def test_cuda_kernels(architecture: int) -> None:
    kernels = kernel_budget.cuda_kernels(architecture)
    assert len(kernels) > 20
    assert {k.warps for k in kernels} == {4, 8}
    assert kernel_budget.check(architecture, kernels) == []


def test_the_budget_itself_has_no_spills_and_matrix_instructions_in_every_product() -> None:
    products = ("forward_rows", "backward_rows", "layer", "weight_gradient", "forward_kernel", "backward_kernel")
    products += ("path_kernel", "matrix_gradient_kernel")
    for architecture, kernels in json.loads(BUDGET.read_text()).items():
        assert len(kernels) > 60, architecture
        for name, budget in kernels.items():
            redundancy = budget.pop("redundancy")
            used = Usage(**budget)
            assert redundancy == 1 if name.startswith("cuda") else 1 <= redundancy <= 4, (architecture, name)
            assert used.stack == used.local_accesses == 0, (architecture, name)
            rounded = any(x in name for x in ("PRECISION=tf32", "PRECISION=bf16", "Tf32", "Bf16"))
            if rounded and name.split()[1].split("<")[0] in products:
                assert used.matrix, (architecture, name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"registers": 101}, "registers: expected at most 100, found 101"),
        ({"stack": 8, "local_accesses": 2}, "spills: 8 bytes of stack, 2 accesses to local memory"),
        ({"shared": 4097}, "shared memory: expected at most 4096 bytes, found 4097"),
        ({"copies": {"16": 8, "4": 3}}, "copies of 4 bytes: expected at most 2, found 3"),
        ({"matrix": {}}, "HMMA.1688.F32.TF32: expected at least 64, found 0"),
        ({"matrix": {"HMMA.1688.F32.TF32": 63}}, "expected at least 64, found 63"),
    ],
    ids=str,
)
def test_what_exceeds_its_budget_is_named(change: dict[str, object], complaint: str) -> None:
    budget = Kernel("kernel", 4, USAGE).as_json()
    assert complaints(Kernel("kernel", 4, USAGE), budget) == []
    worse = dataclasses.replace(USAGE, **change)  # type: ignore[arg-type]
    (found,) = complaints(Kernel("kernel", 4, worse), budget)
    assert found.startswith("kernel: ") and complaint in found
    assert complaints(Kernel("kernel", 4, USAGE), None) == ["kernel: is not in the budget"]
    assert complaints(Kernel("kernel", 4, USAGE, 2.0), budget) == [
        "kernel: redundancy: expected at most 1.0, found 2.0"
    ]


def test_code_that_the_budget_knows_is_not_disassembled(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = kernel_budget.triton_variants(80)
    variant = next(v for name, v in variants.items() if "gather" in name)
    compiled = triton.compile(variant.source, target=launch.target(80), options=variant.options)
    cubin = compiled.asm["cubin"]
    (digest,) = machine_code.code_digests(cubin).values()
    (found,) = machine_code.usage(cubin).values()
    assert found.code == digest
    monkeypatch.setattr(machine_code, "_instructions", None)  # disassembling fails
    known = dataclasses.replace(found, registers=1, copies={"16": 3})
    assert machine_code.usage(cubin, {digest: known})["gather"] == dataclasses.replace(found, copies={"16": 3})
    code = cubin.index(next(data for data in _aligned(cubin) if hashlib.sha256(data).hexdigest() == digest))
    changed = cubin[:code] + bytes([cubin[code] ^ 1]) + cubin[code + 1 :]
    assert machine_code.code_digests(changed) != {"gather": digest}
    with pytest.raises(TypeError):
        machine_code.usage(changed, {digest: known})


def _aligned(cubin: bytes) -> Iterator[bytes]:
    """All pieces of the file that begin and end at a multiple of 128 bytes, as code does."""
    ends = range(0, len(cubin) + 1, 128)
    return (cubin[begin:end] for begin in ends for end in ends if begin < end)


def test_redundancy_by_hand() -> None:
    """Eight warps of 16 rows on a tile of 64 × 32: each product twice. Two by four on 64 × 64: once."""
    layouts = """
#mma = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 8]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 2], instrShape = [16, 32, 8]}>
"""
    twice = (
        "%p = tt.dot %s, %w, %c, inputPrecision = tf32 : tensor<64x128xf32, #ttg.dot_op<{opIdx = 0, parent = #mma}>> * "
        "tensor<128x32xf32, #ttg.dot_op<{opIdx = 1, parent = #mma}>> -> tensor<64x32xf32, #mma>\n"
    )
    once = (
        "%v = ttng.warp_group_dot %h, %w, %c {inputPrecision = 0 : i32} : !ttg.memdesc<64x16xf32, #shared, #smem> * "
        "!ttg.memdesc<16x64xf32, #shared, #smem> -> tensor<64x64xf32, #mma1>\n"
    )
    fused = (
        "%d = tt.dot %x, %y, %c : tensor<64x16xf32, #ttg.dot_op<{opIdx = 0, parent = #blocked}>> * "
        "tensor<16x16xf32, #ttg.dot_op<{opIdx = 1, parent = #blocked}>> -> tensor<64x16xf32, #blocked>\n"
    )
    found = matrix_work.products(layouts + twice + once + fused)
    assert found == [Product(64 * 32 * 128, 128 * 32 * 128), Product(64 * 64 * 16, 64 * 64 * 16)]
    assert matrix_work.redundancy(layouts + once + twice) == 2
    assert matrix_work.redundancy(layouts + once) == matrix_work.redundancy(layouts + fused) == 1


def test_occupancy_by_hand() -> None:
    # 128 registers · 128 threads = 16,384 of 65,536: four blocks, 16 of 64 warps.
    assert occupancy(Usage(128, 0, 1024, 0), warps=4, arch=80) == 16 / 64
    # 100 KiB of shared memory: one block of 164 KiB, two of 228.
    assert occupancy(Usage(32, 0, 100 * 1024, 0), warps=8, arch=80) == 8 / 64
    assert occupancy(Usage(32, 0, 100 * 1024, 0), warps=8, arch=90) == 16 / 64


def test_the_roofline_of_a_forward_by_hand() -> None:
    """D = 64: 8·64² operations; z and ∇u of 64 floats each and four more."""
    line = next(x for x in roofline.markdown((64,)).splitlines() if x.startswith("| forward | 64 | tf32"))
    assert "| 32,768 | 528 | 62 |" in line
    assert roofline.ridge("H100", "tf32") == pytest.approx(147.7, abs=0.1)
