"""Jobs of several commands, a few at once, each command a process of its own; interrupted, they end in order."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffrl.training.interruption import Interruption

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """next_command: what to run now, by what has been done so far; None when nothing is left. log: the file to which
    its commands write.
    """

    name: str
    log: Path
    next_command: Callable[[], list[str] | None]


@dataclass(frozen=True)
class Outcome:
    """failed: the last line that a command said which left with an error, or its exit code, by the job's name."""

    failed: dict[str, str]
    interrupted: bool


def run_jobs(jobs: Sequence[Job], at_once: int, done: Callable[[Job], None], inherited: Sequence[int] = ()) -> Outcome:
    """Run all of them, `at_once` at a time, in their order. done: is told of each as soon as nothing of it is left.
    inherited: file descriptors that the processes get too.

    The first SIGINT or SIGTERM is passed on to the processes as SIGTERM, and no new one starts; a second SIGINT, or an
    exception, kills them.
    """
    waiting, running, failed, stopping = list(jobs), list[_Running](), dict[str, str](), False

    def start(job: Job, after: list[str] | None = None) -> None:
        command = job.next_command()
        if command is None:
            done(job)
        elif command == after:
            failed[job.name] = f"nothing came of {' '.join(command)}"
        else:
            said = job.log.stat().st_size if job.log.exists() else 0
            running.append(_Running(job, command, said, _process(command, job.log, inherited)))

    with Interruption() as interruption:
        try:
            while running or (waiting and not stopping):
                if interruption.requested and not stopping:
                    stopping = True
                    for one in running:
                        one.process.send_signal(signal.SIGTERM)
                while waiting and not stopping and len(running) < at_once:
                    start(waiting.pop(0))
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    if stopping:
                        continue
                    if one.process.returncode == 0:
                        start(one.job, after=one.command)
                    else:
                        failed[one.job.name] = _last_line(one) or f"exit code {one.process.returncode}"
                time.sleep(POLL_SECONDS)
        finally:
            for one in running:
                one.process.kill()
                one.process.wait()
    return Outcome(failed, stopping)


@dataclass(frozen=True)
class _Running:
    """said: bytes of the log before this command."""

    job: Job
    command: list[str]
    said: int
    process: "subprocess.Popen[bytes]"


def _process(command: list[str], log: Path, inherited: Sequence[int]) -> "subprocess.Popen[bytes]":
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # In a session of its own: Ctrl-C in the terminal is passed on once, by us.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            pass_fds=inherited,
        )


def _last_line(of: _Running) -> str:
    lines = of.job.log.read_bytes()[of.said :].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
