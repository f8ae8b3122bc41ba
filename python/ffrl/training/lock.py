"""One command at a time trains in a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ffrl.errors import UserError

LOCK_NAME = ".train.lock"


def lock(file: IO[str], folder: Path) -> None:
    """Lock the file, which lies in `folder`, until it is closed. UserError: another command has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        locked = False
    else:
        # The command that had locked it may have removed it since it was opened.
        locked = os.fstat(file.fileno()).st_nlink > 0
    if not locked:
        raise UserError(f"--out {folder}: expected no other command at work in it, found one")


@contextlib.contextmanager
def sole_training(run: Path) -> Iterator[None]:
    """Hold the folder of a run, which is made if need be, and is removed again if nothing was left in it.

    UserError: another command holds it.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    path = run / LOCK_NAME
    try:
        with path.open("w") as file:
            lock(file, run)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
