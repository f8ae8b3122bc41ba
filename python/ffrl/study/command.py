"""The command: ffrl study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ffrl.data import find_dataset
from ffrl.errors import UserError
from ffrl.files import write_json, write_text
from ffrl.study.lock import sole_use
from ffrl.study.processes import Job, run_jobs
from ffrl.study.results import as_json, as_markdown, require_marks, write_into
from ffrl.study.runs import Plan, StudyRun
from ffrl.study.variants import FLOWS, all_variants, chosen

INTERRUPTED_EXIT_CODE = 130


def study(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/study"),
    minutes: Annotated[float, typer.Option(help="Minutes of training time of each run, on one thread.")] = 3.0,
    processor_time: Annotated[
        bool,
        typer.Option(
            "--processor-time", help="Count the minutes of processor time: fair on a machine that does other work too."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 0 and up, of each variant.")] = 3,
    data: Annotated[str, typer.Option(help="Data set, one of ffrl train's.")] = "digits",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files, if it has any.")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Only these variants, or flows: {', '.join(FLOWS)}.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each a process of one thread.")] = 1,
    sequences: Annotated[int, typer.Option(min=1, help="At most so many held-out sequences of each kind.")] = 1_000,
    docs: Annotated[
        Path | None, typer.Option(help="A page whose table, between its marks, is written anew.", show_default=False)
    ] = None,
) -> None:
    """Compare what makes flows compose: train every variant for an equal time, measure all, write tables.

    Interrupted, it goes on with the same command: what is done is not done again.
    """
    if docs is not None:
        require_marks(docs)
    plan = Plan(out, minutes, processor_time, data, root, sequences)
    variants = chosen(all_variants(find_dataset(data, root)), only)
    # Seed by seed, so that a study cut short compares all variants, and a slow hour meets them all.
    runs = {run.name: run for run in (StudyRun(plan, variant, seed) for seed in range(seeds) for variant in variants)}
    for run in runs.values():
        run.require_ours()
    with sole_use(out) as held:
        progress = _Progress(plan, list(runs.values()))
        commands = [Job(run.name, run.folder / "study.log", run.next_command) for run in runs.values()]
        outcome = run_jobs(commands, jobs, lambda job: progress.done(runs[job.name]), (held,))
        table = progress.write(outcome.failed)
    if outcome.interrupted:
        typer.echo(f"interrupted after {progress.number} of {len(runs)} runs; go on with the same command")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    if docs is not None:
        write_into(docs, table)
    for path in (out / "study.json", out / "study.md", *([docs] if docs else [])):
        typer.echo(f"wrote {path}")
    if outcome.failed:
        failed = "; ".join(f"{name}: {reason}" for name, reason in outcome.failed.items())
        raise UserError(f"{len(outcome.failed)} of {len(runs)} runs failed: {failed}")


class _Progress:
    """Tells of each run that is done, and keeps study.json and study.md up to date."""

    def __init__(self, plan: Plan, runs: Sequence[StudyRun]) -> None:
        self.plan, self.runs, self.number = plan, runs, 0

    def done(self, run: StudyRun) -> None:
        measures = run.measures()
        assert measures is not None  # measuring was what was left to do
        self.number += 1
        self.write({})
        ratio = measures.values["single"]
        typer.echo(
            f"{self.number}/{len(self.runs)}  {run.name}: {measures.iteration:,} iterations, "
            f"flow / decode(z_0) {ratio:.3f}"
        )

    def write(self, failed: Mapping[str, str]) -> str:
        """The table."""
        found = as_json(self.plan, self.runs, failed)
        table = as_markdown(found)
        write_json(self.plan.out / "study.json", found)
        write_text(self.plan.out / "study.md", table)
        return table
