"""The command line: ffrl train, evaluate, traverse, experiment, report, study, table."""

import io
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ffrl.data import DATASETS, Dataset, find_dataset
from ffrl.errors import UserError
from ffrl.experiments.command import experiment
from ffrl.files import write_json
from ffrl.matching import match
from ffrl.measurement import Request, measure, require_comparable, summarise_runs, write_measurement
from ffrl.metrics.summary import as_json, as_table
from ffrl.options import RunArgument, ThreadsOption, use_threads
from ffrl.presets import PRESETS, find_preset
from ffrl.report import write_report
from ffrl.run import (
    LARGEST_SEED,
    RunConfig,
    discard,
    installed_versions,
    load_flow,
    require_new,
    require_no_run_file,
)
from ffrl.source import source_commit
from ffrl.study.command import study
from ffrl.table.command import table
from ffrl.training import Budget, Trainer
from ffrl.training.checkpoint import has_checkpoint
from ffrl.training.lock import sole_training
from ffrl.training.processes import connect
from ffrl.training.trainer import CHECKPOINT_EVERY_SECONDS
from ffrl.traversal import draw_traversals

USER_ERROR_EXIT_CODE = 2
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
INTERRUPTED_EXIT_CODE = 130

app = typer.Typer(
    name="ffrl",
    help="Flow Factorized Representation Learning: train, evaluate and look at latent flows.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/latest"),
    preset: Annotated[str | None, typer.Option(help=f"{' or '.join(PRESETS)}. Default: quickstart.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(DATASETS)}. Default: digits (5,000 MNIST digits, no download)."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files, if it has any.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Budget in iterations. Default: the preset's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes of training time instead.")] = None,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Count the minutes of processor time, of all threads together.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of weights, batches and noise. Default: 0.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda. Several: start ffrl with torchrun.")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="32-true or bf16-mixed, of the autoencoder's products. Default: 32-true.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="How many batches make one step. Default: 1.", show_default=False),
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(min=0.0, help="Seconds from one checkpoint to the next.")
    ] = CHECKPOINT_EVERY_SECONDS,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Train a model and write its run folder: config.json, log.csv and a checkpoint."""
    use_threads(threads)
    if resume:
        choices = {
            "--preset": preset, "--data": data, "--root": root, "--iterations": iterations,
            "--minutes": minutes, "--processor-time": processor_time or None, "--seed": seed, "--set": set_,
            "--precision": precision, "--accumulate": accumulate,
        }  # fmt: skip
        given = [name for name, value in choices.items() if value is not None and value != []]
        if given:
            raise UserError(f"--resume: expected no {', '.join(given)}: a resumed run keeps its settings")
        precision = RunConfig.load(out).precision
    elif precision is None:
        precision = "32-true"
    fabric = connect(device, precision)
    if fabric.is_global_zero:
        context.with_resource(sole_training(out))
    # Nobody looks before the folder is held, nobody writes before everyone has looked.
    fabric.barrier()
    if resume:
        config = RunConfig.load(out)
        loaded = config.load_data()
        if fabric.world_size != config.processes:
            raise UserError(
                f"--resume: expected {config.processes} processes, as the run has, found {fabric.world_size}"
            )
    else:
        require_new("--out", out)
        config, loaded = _new_run(preset, data, root, iterations, minutes, processor_time, seed, set_ or [])
        config = replace(config, accumulate=accumulate or 1, processes=fabric.world_size, precision=precision)
        fabric.barrier()
    trainer = Trainer(
        config.preset, config.budget, loaded, out, config.seed, fabric, config.accumulate, checkpoint_every
    )
    # Only now, when nothing about the settings can be wrong any more, but that they may ask for too much memory.
    if not resume and fabric.is_global_zero:
        config.save(out)
    start = f", from iteration {trainer.iteration}" if trainer.iteration else ""
    several = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""

    def say(text: str) -> None:
        if fabric.is_global_zero:
            typer.echo(text)

    say(f"{out}: {loaded.describe()}, {config.budget.describe()}, seed {config.seed}{several}{start}")
    try:
        trainer.train(Console(), tensorboard=tensorboard)
    except Exception:
        if not resume and fabric.is_global_zero and not has_checkpoint(out):
            discard(out)
        raise
    if not trainer.finished:
        again = _resuming(out, device, checkpoint_every, tensorboard, threads)
        say(f"interrupted at iteration {trainer.iteration}; go on with: {again}")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    say(f"trained {trainer.iteration} iterations in {trainer.seconds / 60:.1f} minutes")


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that ffrl train wrote.")],
    sequences: Annotated[
        int, typer.Option(min=1, help="At most so many held-out sequences of each transformation.")
    ] = 1_000,
    samples: Annotated[
        str, typer.Option(metavar="S,S,…", help="Numbers of importance samples of the log-likelihood's bound.")
    ] = "1,8,64,512",
    bound_sequences: Annotated[
        int, typer.Option(min=1, help="Held-out sequences of each transformation for the bound.")
    ] = 4,
    disentanglement: Annotated[
        bool, typer.Option("--disentanglement", help="DCI, MIG, SAP and FactorVAE score, for images by factors.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(help="File for the summary of several runs. Default: summary.json beside the first.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure runs on held-out sequences: equivariance errors beside their references, volumes, residuals, likelihoods.

    Writes evaluation.json into each; of several runs, which may differ in their seeds alone, also means and spreads.
    """
    use_threads(threads)
    if len(runs) == 1 and summary is not None:
        raise UserError("--summary: expected several runs, found one")
    if summary is not None:
        require_no_run_file("--summary", summary)
    request = Request(sequences, _numbers("--samples", samples), bound_sequences, disentanglement)
    require_comparable(runs)
    summary = runs[0].parent / "summary.json" if summary is None else summary
    if len(runs) > 1:
        # Measuring takes long: what it cannot be written to is better said before.
        summary.parent.mkdir(parents=True, exist_ok=True)
    console = Console()
    measurements = []
    for run in runs:
        measurement = measure(run, request)
        path = write_measurement(run, measurement)
        for shown in measurement.tables():
            console.print(shown)
        for name, reason in measurement.missing.items():
            typer.echo(f"{name}: not measured: {reason}")
        typer.echo(f"wrote {path}")
        measurements.append(measurement)
    if len(runs) > 1:
        found = summarise_runs(measurements)
        write_json(summary, {**as_json(found), "runs": [str(run) for run in runs]})
        console.print(as_table(found, f"{len(runs)} runs on {measurements[0].data.name}"))
        typer.echo(f"wrote {summary}")


@app.command()
def traverse(
    run: RunArgument,
    sequences: Annotated[
        int, typer.Option(min=1, max=100, help="How many held-out sequences of each transformation to draw.")
    ] = 8,
    threads: ThreadsOption = None,
) -> None:
    """Draw each flow on held-out sequences: a strip (PNG) and an animation (GIF), the truth above the flow."""
    use_threads(threads)
    config = RunConfig.load(run)
    data = config.load_data()
    model, _ = load_flow(run, config, data.format)
    potentials = match(model, data, sequences).potentials
    for path in draw_traversals(model, data, sequences, run / "traversal", potentials):
        typer.echo(f"wrote {path}")


app.command()(experiment)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that ffrl train wrote.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page about runs: settings, curves, measures, pictures. It needs no network and no other file."""
    size = write_report(runs, out)
    typer.echo(f"wrote {out} ({size / 1e6:.1f} MB)")


app.command()(study)
app.command()(table)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; arguments: default those of the process. Always ends by SystemExit.

    What the user can mend ends with one line on stderr and exit code 2. No argument at all asks for the help.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A sign that the terminal's encoding lacks is no reason to lose what a command has done.
        sys.stdout.reconfigure(errors="replace")
    try:
        # Not standalone: there Typer frames what is wrong with the arguments, over several lines.
        code = app(given or ["--help"], prog_name="ffrl", standalone_mode=False)
    except typer.TyperException as error:
        _fail(f"{error.format_message()}{_given_instead(error, given)}")
    except KeyboardInterrupt:
        # Typer looks after those that come while a command works.
        code = INTERRUPTED_EXIT_CODE
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and _NO_MEMORY not in str(error):
            raise
        _fail(f"expected sizes that fit into memory, found larger ones ({error or 'out of memory'})")
    sys.exit(code)


def _fail(message: str) -> NoReturn:
    # Messages of libraries may have several lines.
    typer.echo(f"ffrl: {' '.join(line.strip() for line in message.splitlines())}", err=True)
    sys.exit(USER_ERROR_EXIT_CODE)


def _given_instead(error: typer.TyperException, given: list[str]) -> str:
    """What was found where the message says only what was expected."""
    names = getattr(getattr(error, "param", None), "opts", ())
    for argument, following in zip(given, [*given[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in names:
            return f", found {(value if equals else following)!r}"
    if given and error.format_message() == f"No such command {given[0]!r}.":
        return f" Commands: {', '.join(_command_names())}."
    return ""


def _command_names() -> list[str]:
    return [command.callback.__name__ for command in app.registered_commands if command.callback is not None]


def _new_run(
    preset: str | None,
    data: str | None,
    root: Path | None,
    iterations: int | None,
    minutes: float | None,
    processor_time: bool,
    seed: int | None,
    changes: list[str],
) -> tuple[RunConfig, Dataset]:
    chosen = find_preset("quickstart" if preset is None else preset).override(changes)
    if iterations is not None and minutes is not None:
        raise UserError("--iterations and --minutes: expected one of the two, found both")
    if iterations is None and minutes is None:
        iterations = chosen.iterations
    budget = Budget(iterations, minutes, processor_time)
    data = "digits" if data is None else data
    loaded = find_dataset(data, root)
    chosen.require_fit(loaded)
    config = RunConfig(
        preset=chosen,
        budget=budget,
        seed=seed or 0,
        data=data,
        root=str(root.resolve()) if root else None,
        data_checksum=loaded.checksum(),
        versions=installed_versions(),
        commit=source_commit(),
    )
    return config, loaded


def _resuming(out: Path, device: str, checkpoint_every: float, tensorboard: bool, threads: int | None) -> str:
    """The command that goes on with a run as it was trained so far."""
    command = ["ffrl", "train", "--resume", "--out", str(out)]
    if device != "cpu":
        command += ["--device", device]
    if checkpoint_every != CHECKPOINT_EVERY_SECONDS:
        command += ["--checkpoint-every", str(checkpoint_every)]
    if tensorboard:
        command.append("--tensorboard")
    if threads is not None:
        command += ["--threads", str(threads)]
    return shlex.join(command)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option}: expected whole numbers, like 1,8,64, found {text!r}") from None


if __name__ == "__main__":
    main()
