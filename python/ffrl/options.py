"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import torch
import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that ffrl train wrote.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads. Default: what PyTorch chooses.", show_default=False)
]


def use_threads(threads: int | None) -> None:
    """Let PyTorch use so many threads; None: as many as it chose."""
    if threads is not None:
        torch.set_num_threads(threads)
