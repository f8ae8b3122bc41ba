"""Ctrl-C and SIGTERM end a run at the next iteration boundary, where a checkpoint can be written."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Within its context the first SIGINT or SIGTERM sets `requested`; a second SIGINT interrupts at once.

    Signals can only be caught in the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._previous[name] = signal.signal(name, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, handler in self._previous.items():
            signal.signal(name, handler)
