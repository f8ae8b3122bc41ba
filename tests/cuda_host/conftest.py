from __future__ import annotations

import platform
import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _host_compiler() -> None:
    if shutil.which("g++") is None or platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("the emulation of CUDA needs g++ and x86-64 Linux")
