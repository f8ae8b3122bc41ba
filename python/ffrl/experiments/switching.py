"""One flow, then another: a for T/2 steps, then b, with the clock running on and restarted."""

from pathlib import Path

import torch

from ffrl import composition
from ffrl.composed_paths import half_of, names_of, ordered_pairs, potentials_of, switched_moves, switched_path
from ffrl.drawing import save_sequences
from ffrl.experiments.subject import Findings, Subject, joined, require_some
from ffrl.experiments.tables import note_left_out, titled


@torch.no_grad()
def switching(subject: Subject, folder: Path) -> Findings:
    """Errors of the second half, strip and animation of each ordered pair."""
    model, data, _, potentials = subject.measured
    found = composition.switches(*subject.measured)
    require_some(found.values, found.left_out, data)
    half, pictures = half_of(data), []
    for pair in ordered_pairs(data):
        a, b = names_of(data, pair)
        if f"{a} → {b}" in found.left_out:
            continue
        truth = joined(data.composed_sequences("held_out", switched_moves(data, pair), subject.shown))
        z0, chosen = subject.codes(truth[0]), potentials_of(pair, potentials)
        decode = model.autoencoder.decode
        rows = {
            "true": truth,
            "clock on": decode(switched_path(model, z0, data, chosen, restart=False)),
            "restart": decode(switched_path(model, z0, data, chosen, restart=True)),
        }
        note = f"held out, switched at t = {half}; the clock of the second runs on, or restarts"
        pictures += save_sequences(rows, f"{a}, then {b}", note, folder / f"{a}-then-{b}")
    title = f"Switches at t = {half}: L1 error of t = {half + 1}…{data.num_steps} / decode(z_{half})"
    table = titled(title, "clock\nruns on", "clock\nrestarts", "decode(\nencode(x_t))", f"decode(z_{half})\nin L1")
    for name, switch in found.values.items():
        running, restarted = switch.running, switch.restarted
        ratios = (running.ratio, restarted.ratio, running.reconstruction_ratio)
        table.add_row(name, *(f"{ratio:.3f}" for ratio in ratios), f"{running.standing_still:.0f}")
    results = {
        "switched_at": half,
        "running": {name: composition.error_as_json(switch.running) for name, switch in found.values.items()},
        "restarted": {name: composition.error_as_json(switch.restarted) for name, switch in found.values.items()},
        "left_out": found.left_out,
    }
    return Findings(results, (note_left_out(table, found.left_out),), tuple(pictures))
