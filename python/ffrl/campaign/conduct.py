"""Carrying out a campaign: train and measure what is missing, and keep the tables up to date meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from ffrl.campaign.lock import sole_use
from ffrl.campaign.processes import Job, run_jobs
from ffrl.campaign.runs import PlannedRun
from ffrl.errors import UserError

INTERRUPTED_EXIT_CODE = 130

R = TypeVar("R", bound=PlannedRun)


def conduct(
    out: Path,
    runs: Sequence[R],
    jobs: int,
    describe: Callable[[R], str],
    write: Callable[[Mapping[str, str]], Sequence[Path]],
    publish: Callable[[], Sequence[Path]],
) -> None:
    """Do whatever is left to do of all runs, `jobs` at a time, and say so.

    out: folder of the campaign, which no other command may use meanwhile. describe: a measured run in a few words.
    write: is given why runs failed, by their names, writes the tables of all that is measured, and returns the files;
    it is called after every run. publish: the same of the documentation; it is called at the end.

    UserError: runs in the folder are of other settings; or some failed, once all others are done. typer.Exit of code
    130: interrupted; the same call goes on.
    """
    for run in runs:
        run.require_ours()
    by_name = {run.name: run for run in runs}
    number = 0

    def done(job: Job) -> None:
        nonlocal number
        number += 1
        write({})
        typer.echo(f"{number}/{len(runs)}  {job.name}: {describe(by_name[job.name])}")

    with sole_use(out, typer.echo) as held:
        commands = [Job(run.name, run.log, run.next_command) for run in runs]
        outcome = run_jobs(commands, jobs, done, (held,))
        files = write(outcome.failed)
    if outcome.interrupted:
        typer.echo(f"interrupted after {number} of {len(runs)} runs; go on with the same command")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    for path in (*files, *publish()):
        typer.echo(f"wrote {path}")
    if outcome.failed:
        failed = "; ".join(f"{name}: {reason}" for name, reason in outcome.failed.items())
        raise UserError(f"{len(outcome.failed)} of {len(runs)} runs failed: {failed}")
