"""tanh and the rounding to tf32, over many float32 numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from ffrl_fast.triton_kernels.elementary import round_to_tf32, tanh  # noqa: E402

_BLOCK = 1 << 15


@triton.jit
def _tanh(x, out, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tanh(tl.load(x + i), PRECISION))


@triton.jit
def _round(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, round_to_tf32(tl.load(x + i)))


def _numbers() -> torch.Tensor:
    """Both signs, densely about the change of formula, down to the smallest normal numbers and up past saturation."""
    generator = torch.Generator().manual_seed(0)
    quarter = _BLOCK // 4
    parts = [
        torch.linspace(0.5, 0.6, quarter),
        torch.linspace(0, 12, quarter),
        10 ** (-37 + 39 * torch.rand(quarter, generator=generator)),
    ]
    x = torch.cat([*parts, torch.rand(quarter, generator=generator)])
    return torch.where(torch.rand(_BLOCK, generator=generator) < 0.5, x, -x)


def test_tanh() -> None:
    x = _numbers()
    exact = np.tanh(x.double().numpy())
    found = torch.empty_like(x)
    with np.errstate(over="ignore"):  # which the formula is made for
        _tanh[(1,)](x, found, "ieee", _BLOCK)
    ulp = np.abs(found.double().numpy() - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert ulp.max() <= 4
    for precision in ("tf32", "bf16"):
        with np.errstate(over="ignore"):
            _tanh[(1,)](x, found, precision, _BLOCK)
        assert np.abs(found.double().numpy() - exact).max() < 2e-7


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_tanh_at_the_edges(precision: str) -> None:
    x = torch.tensor([0.0, -0.0, 20.0, -20.0, 40.0, -40.0, torch.nan, 1e-20])
    found = torch.empty_like(x)
    _tanh[(1,)](x, found, precision, 8)
    assert found[:6].tolist() == [0, 0, 1, -1, 1, -1] and found[6].isnan()
    assert precision != "ieee" or found[7] == x[7]


def test_round_to_tf32() -> None:
    x = _numbers()
    found = torch.empty_like(x)
    _round[(1,)](x, found, _BLOCK)
    assert ((found.view(torch.int32) & 0x1FFF) == 0).all()
    assert ((found - x).abs() <= x.abs() * 2.0**-11).all()
    edges = torch.tensor([1 + 2.0**-11, 1 + 3 * 2.0**-11, torch.inf, -torch.inf, torch.nan, 0.0, 1.5, -1.5])
    found = torch.empty_like(edges)
    _round[(1,)](edges, found, 8)
    assert found[:4].tolist() == [1, 1 + 2.0**-9, torch.inf, -torch.inf] and found[4].isnan()
    assert found[5:].tolist() == [0, 1.5, -1.5]
