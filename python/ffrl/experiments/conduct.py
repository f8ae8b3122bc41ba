"""All experiments by name, and the JSON file that each writes."""

from collections.abc import Callable
from pathlib import Path

from ffrl.experiments.evolution import evolution
from ffrl.experiments.extrapolation import extrapolation
from ffrl.experiments.inverse import inverse
from ffrl.experiments.orthogonality import orthogonality
from ffrl.experiments.subject import Findings, Subject
from ffrl.experiments.superposition import superposition
from ffrl.experiments.switching import switching
from ffrl.files import write_json

EXPERIMENTS: dict[str, Callable[[Subject, Path], Findings]] = {
    "evolution": evolution,
    "switching": switching,
    "superposition": superposition,
    "extrapolation": extrapolation,
    "orthogonality": orthogonality,
    "inverse": inverse,
}
"""Each draws into a folder and says what it finds. UserError, before anything is drawn: the data
have no sequence for it, or the model lacks what it is about."""


def conduct(name: str, subject: Subject, folder: Path) -> tuple[Findings, Path]:
    """Make the experiment of this name, its pictures in `folder`; its findings, and the JSON file with their numbers
    and where they come from.
    """
    findings = EXPERIMENTS[name](subject, folder)
    path = folder / f"{name}.json"
    write_json(
        path,
        {
            "experiment": name,
            **findings.results,
            "sequences": subject.sequences,
            "potentials": subject.potentials,
            **subject.config.result_provenance(subject.iteration),
        },
    )
    return findings, path
