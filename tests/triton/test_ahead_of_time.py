"""The kernels are compiled for GPUs that are not there: they compile, spill no register, and use the matrix unit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from ffrl_fast.gpu.engine import Precision  # noqa: E402
from ffrl_fast.triton_kernels import blocks, variants  # noqa: E402
from ffrl_fast.triton_kernels.launch import Variant, target  # noqa: E402

ROW_KERNELS = ("forward_rows", "backward_rows", "weight_gradient")


def compiled(variant: Variant, architecture: int, folder: Path) -> tuple[str, int]:
    """The PTX, and the bytes of local memory a thread needs: where registers are spilled to."""
    kernel = triton.compile(variant.source, target=target(architecture), options=variant.options)
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    usage = subprocess.check_output([triton.knobs.nvidia.cuobjdump.path, "-res-usage", file], text=True)
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    return kernel.asm["ptx"], int(stack[1])


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.BF16])
@pytest.mark.parametrize("architecture", [80, 90])
def test_row_kernels(architecture: int, precision: Precision, tmp_path: Path) -> None:
    found = [v for v in variants(architecture, [64], [precision]) if v.name in ROW_KERNELS]
    assert {v.name for v in found} == set(ROW_KERNELS)
    for variant in found:
        ptx, stack = compiled(variant, architecture, tmp_path)
        assert stack == 0, variant
        assert "mma" in ptx, variant


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
def test_the_table_asks_for_few_variants(architecture: int) -> None:
    found = variants(architecture)
    assert len(set(found)) == len(found) <= 145
    assert len(set(variants(architecture, dtypes=[torch.float32]))) <= 90
    assert {dict(v.constants).get("PRECISION") for v in found} >= {"ieee", "tf32", "bf16"}


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
def test_every_entry_of_the_table_is_among_them(architecture: int) -> None:
    table = json.loads(Path(blocks.__file__).with_name("blocks.json").read_text())[str(architecture)]
    for precision in Precision:
        constants = [dict(v.constants) for v in variants(architecture, precisions=[precision])]
        rows = {(c["WIDTH"], c["BLOCK_ROWS"]) for c in constants if "WIDTH" in c}
        assert rows == {(row["width"], row["rows"]) for row in table[precision.value]["fused"]}
        assert any("BLOCK_INNER" in c and "BLOCK_UNITS" in c for c in constants)  # layer by layer


def test_what_is_launched_is_what_is_compiled() -> None:
    """A kernel's types, constants and known multiples of 16 come from one launch, whatever it is used for."""
    (first,) = [
        v
        for v in variants(80, [64], [Precision.TF32])
        if v.name == "forward_rows" and not dict(v.constants)["VALUE_ONLY"]
    ]
    assert dict(first.signature)["z"] == "*fp32" and dict(first.signature)["WIDTH"] == "constexpr"
    assert {"z", "dim", "width", "z_pitch"} <= set(first.aligned)
    (odd,) = [
        v
        for v in variants(80, [226], [Precision.TF32])
        if v.name == "forward_rows" and not dict(v.constants)["VALUE_ONLY"]
    ]
    assert "dim" not in odd.aligned


def test_the_table_is_in_rising_order() -> None:
    for columns in json.loads(Path(blocks.__file__).with_name("blocks.json").read_text()).values():
        for column in columns.values():
            widths = [row["width"] for row in column["fused"]]
            assert widths == sorted(set(widths))
            for row in column["fused"]:
                for tile in (row["forward"], row["backward"]):
                    assert row["width"] % tile["chunk"] == row["width"] % tile["units"] == 0
                assert row["rows"] % column["weight"]["units"] == 0
