"""How an image evolves along each flow, t = 0…T, beside the truth; and whether finer steps change it."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ffrl.composed_paths import potentials_of
from ffrl.composition import FINER, finer_steps
from ffrl.drawing import curves, save_png
from ffrl.evaluation import frame_errors, mean_over_sequences
from ffrl.experiments.subject import Findings, Subject
from ffrl.experiments.tables import titled
from ffrl.traversal import draw_traversals

ERRORS = ("flow", "standing_still", "pixel_identity", "black", "reconstruction")
_IN_THE_PICTURE = {
    "flow": "flow",
    "standing_still": "decode(z_0)",
    "pixel_identity": "x_0",
    "black": "black",
    "reconstruction": "decode(encode(x_t))",
}


def evolution(subject: Subject, folder: Path) -> Findings:
    """Strip, animation and error curves of each transformation."""
    model, data, count, potentials = subject.measured
    pictures = draw_traversals(model, data, subject.shown, folder, potentials)
    by_t = errors_by_t(subject)
    for name, errors in by_t.items():
        lines = {label: errors[error] for error, label in _IN_THE_PICTURE.items()}
        title = f"{name}: L1 error at t, mean of held-out sequences"
        pictures.append(save_png(curves(lines, title, "t"), folder / f"{name}-errors.png"))
    finer = finer_steps(model, data, model.substeps, count, potentials)
    table = titled("L1 error of the flow at t", *map(str, range(data.num_steps + 1)), f"{FINER} × finer\n/ own steps")
    table.padding = (0, 1, 0, 0)  # eleven columns of four digits in 80
    for name, errors in by_t.items():
        table.add_row(name, *(f"{error:.0f}" for error in errors["flow"]), f"{finer[name].ratio:.3f}")
    results = {
        "errors_by_t": by_t,
        "finer": {name: {**asdict(found), "ratio": found.ratio} for name, found in finer.items()},
    }
    return Findings(results, (table,), tuple(pictures))


@torch.no_grad()
def errors_by_t(subject: Subject) -> dict[str, dict[str, list[float]]]:
    """For each transformation and each error of `EquivarianceError` its part at t = 0…T."""
    model, data, count, potentials = subject.measured
    found = {}
    for k, name in enumerate(data.transformations):
        (index,) = potentials_of((k,), potentials)

        def sums(frames: Tensor, index: int = index) -> Tensor:
            z = model.flow(subject.codes(frames[0]), index=index, steps=data.num_steps)
            return frame_errors(model.autoencoder, frames, z, frames[0], z[0])

        means, _ = mean_over_sequences(data.sequences("held_out", k, count), sums)
        found[name] = dict(zip(ERRORS, means.tolist(), strict=True))
    return found
