from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _host_compiler() -> None:
    if shutil.which("g++") is None or platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("the emulation of CUDA needs g++ and x86-64 Linux")


@pytest.fixture(autouse=True)
def _nothing_is_read_before_it_is_written() -> Iterator[None]:
    """torch.empty makes NaN: an engine's workspace has no luck with what lay there before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
