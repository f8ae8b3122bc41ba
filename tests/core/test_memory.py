"""Blocks that outlive a call."""

from __future__ import annotations

import gc
import io

import pytest
import torch

from ffrl_fast import PotentialBank, _core, hj_loss, release_memory

MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def nothing_idle() -> None:
    gc.collect()
    release_memory()
    assert _core.idle_bytes() == 0


def _tensor(size: int) -> torch.Tensor:
    return torch.frombuffer(_core.Block(size), dtype=torch.uint8)


def test_a_block_returns_when_its_last_tensor_ends() -> None:
    x = _tensor(MEGABYTE)
    address, view = x.data_ptr(), x[10:]
    assert address % 64 == 0
    del x
    assert _core.idle_bytes() == 0
    del view
    assert _core.idle_bytes() == MEGABYTE
    again = _tensor(MEGABYTE - 100)  # of the same size class
    assert again.data_ptr() == address
    assert _core.idle_bytes() == 0
    assert _tensor(MEGABYTE // 2).data_ptr() != address


def test_idle_memory_is_bounded() -> None:
    most = _core.most_idle_bytes()
    assert 512 * MEGABYTE <= most <= 4096 * MEGABYTE
    blocks = [_core.Block(100 * MEGABYTE) for _ in range(most // (100 * MEGABYTE) + 2)]
    del blocks
    assert most - 200 * MEGABYTE < _core.idle_bytes() <= most
    release_memory()
    assert _core.idle_bytes() == 0


def test_a_block_too_large_for_the_machine_is_an_error() -> None:
    with pytest.raises(MemoryError):
        _core.Block(2**60)


def test_large_gradients_are_ordinary_tensors() -> None:
    bank = PotentialBank(1, 200)
    z = torch.randn(500, 200, requires_grad=True)
    optimizer = torch.optim.Adam(bank.parameters())
    before = bank.theta.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        hj_loss(z, 0.5, bank).backward()
        optimizer.step()
    assert not torch.equal(before, bank.theta)
    file = io.BytesIO()
    torch.save(bank.theta.grad, file)
    file.seek(0)
    assert torch.equal(torch.load(file), bank.theta.grad)
    kept = bank.theta.grad.clone()
    grad = bank.theta.grad
    hj_loss(z, 0.5, PotentialBank(1, 200)).backward()  # must not write into memory that is still in use
    assert torch.equal(grad, kept)
