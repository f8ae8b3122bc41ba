"""Importing the training layer is silent."""

import subprocess
import sys


def test_importing_the_command_line_warns_of_nothing() -> None:
    end = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", "import ffrl.cli"], capture_output=True, text=True, check=False
    )
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
