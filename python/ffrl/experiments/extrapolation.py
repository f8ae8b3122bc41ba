"""Beyond what was trained: flows longer than any training sequence, and images of other data."""

from pathlib import Path
from typing import Any

import torch

from ffrl import composition
from ffrl.composed_paths import extrapolated_moves, potentials_of
from ffrl.data import Dataset
from ffrl.drawing import save_sequences
from ffrl.evaluation import equivariance_errors
from ffrl.experiments.subject import Findings, Subject, joined, require_some
from ffrl.experiments.tables import errors_table, note_left_out
from ffrl.traversal import draw_traversals


@torch.no_grad()
def extrapolation(subject: Subject, folder: Path) -> Findings:
    """Errors and pictures of t = T + 1…T + T/2, and of the unseen data where the subject has some."""
    model, data, _, potentials = subject.measured
    found = composition.extrapolation(*subject.measured)
    if subject.unseen is None:
        require_some(found.values, found.left_out, data)
    last, pictures = data.num_steps, []
    for k, name in enumerate(data.transformations):
        if name in found.left_out:
            continue
        moves, (index,) = extrapolated_moves(data, k), potentials_of((k,), potentials)
        truth = joined(data.composed_sequences("held_out", moves, subject.shown))
        z = model.flow(subject.codes(truth[0]), index=index, steps=len(moves))
        rows = {"true": truth, "flow": model.autoencoder.decode(z)}
        note = f"held out; the flow starts from t = 0 and was trained to t = {last}"
        pictures += save_sequences(rows, f"{name}, longer", note, folder / f"{name}-longer")
    title = f"Longer than trained: L1 error of t = {last + 1}…{last + last // 2}, summed"
    tables = [note_left_out(errors_table(found.values, title, f"decode(z_{last})"), found.left_out)]
    results: dict[str, Any] = {"trained_to": last, **found.as_json(composition.error_as_json), "unseen": None}
    if subject.unseen is not None:
        results["unseen"], table, drawn = _unseen(subject, subject.unseen, folder)
        tables.append(table)
        pictures += drawn
    return Findings(results, tuple(tables), tuple(pictures))


def _unseen(subject: Subject, unseen: Dataset, folder: Path) -> tuple[dict[str, Any], Any, list[Path]]:
    model, _, count, potentials = subject.measured
    errors = equivariance_errors(model, unseen, count, potentials)
    pictures = draw_traversals(model, unseen, subject.shown, folder / "unseen", potentials)
    results = {
        "data": unseen.name,
        "data_checksum": unseen.checksum(),
        "values": {name: composition.error_as_json(error) for name, error in errors.items()},
    }
    title = f"Unseen data {unseen.name}: L1 error of t = 1…{unseen.num_steps}, summed"
    return results, errors_table(errors, title), pictures
