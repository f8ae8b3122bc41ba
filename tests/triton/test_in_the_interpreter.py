"""Runs ``interpreted/`` in a process whose Triton interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent
SLOW = ("test_engine.py",)  # minutes; by default the compiled kernels alone are executed, in the interpreter of PTX
NAMES = [
    pytest.param(path.name, marks=pytest.mark.slow if path.name in SLOW else ())
    for path in sorted((HERE / "interpreted").glob("test_*.py"))
]


@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted" / name)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
