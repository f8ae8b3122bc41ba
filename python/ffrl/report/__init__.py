"""One HTML page about one or several runs: settings, training curves, evaluations, pictures."""

from collections.abc import Sequence
from pathlib import Path

from ffrl.files import write_text
from ffrl.report.contents import read_runs
from ffrl.report.page import page
from ffrl.run import require_no_run_file

__all__ = ["write_report"]


def write_report(runs: Sequence[Path], out: Path) -> int:
    """Write the page about the run folders `runs` to `out`, atomically; returns its bytes.

    Parts that a run lacks are named on the page. UserError: a folder twice or that is no run, a file that is damaged or
    larger than 20 MB, or an `out` that is a folder or a run's own file.
    """
    require_no_run_file("--out", out)
    text = page(read_runs(runs))
    write_text(out, text)
    return out.stat().st_size
