"""The flow backwards, truly inverted, beside steps with −∇u; and where it cannot be inverted."""

import csv
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ffrl.composed_paths import potentials_of
from ffrl.drawing import animation, save_gif, save_png, strip
from ffrl.errors import UserError
from ffrl.experiments.subject import Findings, Subject
from ffrl.experiments.tables import titled
from ffrl.files import write_text
from ffrl.inversion import MOST_ITERATIONS, TOLERANCE
from ffrl.round_trip import RETURNED, RoundTrip, joined, round_trip

ROWS_NAME = "rows.csv"
FOLDS_COLOUR = (240, 150, 0)
ELSEWHERE_COLOUR = (215, 30, 30)
_MOST_MARKED = 2


def inverse(subject: Subject, folder: Path) -> Findings:
    """Round trips of each transformation: numbers, a strip, an animation backwards, and a CSV file of all rows.

    UserError: of a velocity.
    """
    model, data, count, potentials = subject.measured
    if (reason := model.dynamics.without_volumes) is not None:
        raise UserError(f"inverse: expected a flow of potentials, found another: {reason}")
    numbers: dict[str, dict[str, float | int | None]] = {}
    pictures, lines = [], []
    for k, name in enumerate(data.transformations):
        (index,) = potentials_of((k,), potentials)
        chunks = data.sequences("held_out", k, count)
        trip = joined([round_trip(model, subject.codes(frames[0]), index, data.num_steps) for frames in chunks])
        numbers[name] = summary(subject, trip)
        lines += rows(name, trip)
        pictures += _draw(subject, trip, name, folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder / ROWS_NAME, text.getvalue())
    title = f"Backwards from t = {data.num_steps}: sequences, and distances to z_0"
    headings = ("back", "other\nstart", "not\nsolved", "folds", "back at", "stepped\nwith −∇u", "z_T")
    table = titled(title, *headings)
    for name, found in numbers.items():
        error = found["latent_error_returned"]
        table.add_row(
            name,
            *(str(found[part]) for part in ("returned", "elsewhere", "unsolved", "folding_sequences")),
            "–" if error is None else f"{error:.1e}",
            f"{found['latent_error_stepped']:.2f}",
            f"{found['distance']:.2f}",
        )
    settings = {"tolerance": TOLERANCE, "most_iterations": MOST_ITERATIONS, "returned_within": RETURNED}
    return Findings({"round_trips": numbers, "settings": settings, "rows": ROWS_NAME}, (table,), tuple(pictures))


def summary(subject: Subject, trip: RoundTrip) -> dict[str, float | int | None]:
    """The numbers of one transformation (docs/experiments.md defines them); means over no row are None."""
    decode = subject.model.autoencoder.decode

    def image_error(z: Tensor, chosen: Tensor) -> float | None:
        images, back = (decode(part[chosen].float()) for part in (trip.there[0], z))
        return _mean((images - back).abs().flatten(1).sum(dim=1, dtype=torch.float64))

    elsewhere, everyone = trip.solved & ~trip.returned, torch.ones_like(trip.solved)
    steps_made = trip.iterations[trip.residual.isfinite()]
    return {
        "sequences": len(trip.error),
        "euler_steps": len(trip.moments),
        "returned": int(trip.returned.sum()),
        "elsewhere": int(elsewhere.sum()),
        "unsolved": int((~trip.solved).sum()),
        "folding_sequences": int(trip.folding.sum()),
        "folding_steps": int((trip.smallest <= 0).sum()),
        "returned_though_folding": int((trip.returned & trip.folding).sum()),
        "elsewhere_without_folding": int((elsewhere & ~trip.folding).sum()),
        "unsolved_without_folding": int((~trip.solved & ~trip.folding).sum()),
        "smallest_eigenvalue": trip.smallest.min().item(),
        "newton_steps": _mean(steps_made.double()),
        "most_newton_steps": int(steps_made.max()),
        "distance": _mean((trip.there[-1] - trip.there[0]).norm(dim=1)),
        "latent_error_returned": _mean(trip.error[trip.returned]),
        "latent_error_elsewhere": _mean(trip.error[elsewhere]),
        "latent_error_stepped": _mean(trip.stepped_error),
        "image_error_returned": image_error(trip.back[0], trip.returned),
        "image_error_elsewhere": image_error(trip.back[0], elsewhere),
        "image_error_stepped": image_error(trip.stepped[0], everyone),
        "image_error_standing_still": image_error(trip.there[-1], everyone),
    }


def rows(name: str, trip: RoundTrip) -> list[dict[str, Any]]:
    """What became of each row, for the CSV file."""
    worst = trip.residual.nan_to_num(0).amax(dim=0)
    found = []
    for n in range(len(trip.error)):
        stopped = trip.back[:-1, n].isnan().any(dim=1)
        outcome = "returned" if trip.returned[n] else "elsewhere" if trip.solved[n] else "unsolved"
        found.append(
            {
                "transformation": name,
                "sequence": n,
                "outcome": outcome,
                "unsolved_at_t": trip.moments[stopped][-1].item() if stopped.any() else "",
                "newton_steps": int(trip.iterations[:, n].sum()),
                "largest_residual": worst[n].item(),
                "latent_error": "" if stopped.any() else trip.error[n].item(),
                "latent_error_stepped": trip.stepped_error[n].item(),
                "folding_steps": int((trip.smallest[:, n] <= 0).sum()),
                "smallest_eigenvalue": trip.smallest[:, n].min().item(),
            }
        )
    return found


def _draw(subject: Subject, trip: RoundTrip, name: str, folder: Path) -> list[Path]:
    chosen, every, decode = _shown(subject, trip), subject.model.substeps, subject.model.autoencoder.decode
    there, back, stepped = (path[::every, chosen] for path in (trip.there, trip.back, trip.stepped))
    images = {label: decode(z.float()) for label, z in (("there", there), ("back", back), ("-grad u", stepped))}
    folds = (trip.smallest[:, chosen] <= 0).unflatten(0, (-1, every)).any(dim=1)
    folds = torch.cat([folds, torch.zeros_like(folds[:1])])
    # NaN is no distance: frames that were never reached are crossed out instead.
    elsewhere = (back - there).norm(dim=2) > RETURNED
    outlines = {"there": [(folds, FOLDS_COLOUR)], "back": [(elsewhere, ELSEWHERE_COLOUR)]}
    title = f"{name}, there and back; orange: the step from here folds, red: another way back, crossed: not solved"
    times = range(len(there))[::-1]
    backwards = {label: shown.flip(0) for label, shown in images.items()}
    return [
        save_png(strip(images, title, outlines), folder / f"{name}.png"),
        save_gif(animation(backwards, f"{name} backwards", times), folder / f"{name}.gif"),
    ]


def _shown(subject: Subject, trip: RoundTrip) -> list[int]:
    """The rows of a picture: the first, but some that fold or did not return where there are any."""
    marked = (trip.folding | ~trip.returned).nonzero().squeeze(1).tolist()[:_MOST_MARKED]
    others = [n for n in range(len(trip.error)) if n not in marked]
    return sorted(marked + others[: max(0, subject.shown - len(marked))])


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
