"""One study at a time works in a folder, and no process that an earlier one left behind does."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffrl.errors import UserError


@contextmanager
def sole_use(folder: Path) -> Iterator[int]:
    """Hold the folder, which is made if need be, for this process and all that inherit the file descriptor yielded.

    A study that was killed leaves its trainings running; they hold the folder until they end. UserError: it is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {folder}: expected no study at work in it, found one, or runs that one left"
            ) from None
        yield file.fileno()
