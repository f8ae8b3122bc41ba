from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++, to compile the interpreter")
