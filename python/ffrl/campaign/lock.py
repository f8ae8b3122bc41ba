"""One campaign at a time works in a folder, and no process that an earlier one left behind does."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffrl.training.lock import lock


@contextmanager
def sole_use(folder: Path, wait_told: Callable[[str], None]) -> Iterator[int]:
    """Hold the folder, which is made if need be, for this process and all that inherit the file descriptor yielded.

    A campaign that was killed leaves its runs at work; they hold the folder until they end, which is waited for after
    `wait_told` was told so in words. UserError: a campaign that lives holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as mine, (folder / ".runs.lock").open("w") as inherited:
        lock(mine, folder)
        try:
            fcntl.flock(inherited, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait_told(f"waiting for the runs in {folder} that a killed command left at work")
            fcntl.flock(inherited, fcntl.LOCK_EX)
        yield inherited.fileno()
