"""The command ffrl experiment."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ffrl.data import find_dataset
from ffrl.errors import UserError
from ffrl.experiments.conduct import EXPERIMENTS, conduct
from ffrl.experiments.subject import Subject
from ffrl.options import RunArgument, ThreadsOption, use_threads

ALL = "all"
_WITH_UNSEEN_DATA = ("extrapolation", ALL)


def experiment(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(EXPERIMENTS)}, or {ALL}.")],
    run: RunArgument,
    sequences: Annotated[int, typer.Option(min=1, help="At most so many held-out sequences of each kind.")] = 1_000,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; with all, of one folder each. Default: RUN/experiments/NAME."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Unseen data for extrapolation, of the run's transformations. Default with --root: mnist."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of their files, as those of Fashion-MNIST, which are named like MNIST's."),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Make one of the paper's experiments on a trained run: pictures, animations, and a JSON file with the numbers."""
    use_threads(threads)
    if name not in (*EXPERIMENTS, ALL):
        raise UserError(f"NAME: expected one of {', '.join(EXPERIMENTS)}, {ALL}, found {name!r}")
    if name not in _WITH_UNSEEN_DATA and (data is not None or root is not None):
        given = "--data" if data is not None else "--root"
        raise UserError(f"{given}: expected only with {' or '.join(_WITH_UNSEEN_DATA)}, found with {name}")
    unseen = None if data is None and root is None else find_dataset(data or "mnist", root)
    subject = Subject.load(run, sequences, unseen)
    console = Console()
    if name != ALL:
        _conduct(name, subject, out or run / "experiments" / name, console)
        return
    for one in EXPERIMENTS:
        try:
            _conduct(one, subject, (out or run / "experiments") / one, console)
        except UserError as error:
            typer.echo(f"{one}: left out. {error}")


def _conduct(name: str, subject: Subject, folder: Path, console: Console) -> None:
    findings, path = conduct(name, subject, folder)
    for table in findings.tables:
        console.print(table)
    typer.echo(f"wrote {path} and {len(findings.pictures)} pictures beside it")
