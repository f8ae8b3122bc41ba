"""Progress for people: a bar on a terminal, a line now and then elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINES_WITHOUT_TERMINAL = 10


class TrainingProgress:
    """Shows the share of the budget used and the latest losses; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._lines = 0

    def update(self, fraction: float, text: str) -> None:
        """fraction: of the budget used, 0 to 1. text: one short line."""
        self._bar.update(self._task, completed=fraction, description=text)
        if not self._console.is_terminal and fraction * LINES_WITHOUT_TERMINAL >= self._lines + 1:
            self._lines = int(fraction * LINES_WITHOUT_TERMINAL)
            self._console.print(f"{fraction:4.0%}  {text}", highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
