"""Two flows at once: z + ∇u^a + ∇u^b beside sequences along which both transformations move."""

from pathlib import Path

import torch

from ffrl import composition
from ffrl.composed_paths import names_of, pairs, potentials_of, superposed_moves, superposed_path
from ffrl.drawing import save_sequences
from ffrl.experiments.subject import Findings, Subject, joined, require_some
from ffrl.experiments.tables import errors_table, note_left_out


@torch.no_grad()
def superposition(subject: Subject, folder: Path) -> Findings:
    """Errors, strip and animation of each pair."""
    model, data, _, potentials = subject.measured
    found = composition.superposition(*subject.measured)
    require_some(found.values, found.left_out, data)
    pictures = []
    for pair in pairs(data):
        a, b = names_of(data, pair)
        if f"{a} + {b}" in found.left_out:
            continue
        truth = joined(data.composed_sequences("held_out", superposed_moves(data, pair), subject.shown))
        z = superposed_path(model, subject.codes(truth[0]), data, potentials_of(pair, potentials))
        rows = {"true": truth, "flow": model.autoencoder.decode(z)}
        note = "held out, both flows at once from the encoding of t = 0"
        pictures += save_sequences(rows, f"{a} and {b}", note, folder / f"{a}-and-{b}")
    table = errors_table(found.values, f"Superposition: L1 error of t = 1…{data.num_steps}, summed")
    results = found.as_json(composition.error_as_json)
    return Findings(results, (note_left_out(table, found.left_out),), tuple(pictures))
