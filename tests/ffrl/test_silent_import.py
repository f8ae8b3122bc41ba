"""Importing the training layer is silent."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        "ffrl.cli",
        "ffrl.metrics.clustering, ffrl.metrics.disentanglement, ffrl.metrics.folding, ffrl.metrics.likelihood, "
        "ffrl.metrics.summary",
    ],
)
def test_importing_warns_of_nothing(modules: str) -> None:
    end = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", f"import {modules}"], capture_output=True, text=True, check=False
    )
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
