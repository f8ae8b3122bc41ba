"""Whether the paths of different transformations go different ways, beside random directions."""

from dataclasses import asdict
from pathlib import Path

from ffrl.composed_paths import names_of, pairs
from ffrl.drawing import heat_map, save_png
from ffrl.errors import NoRoomError
from ffrl.experiments.subject import Findings, Subject, require_some
from ffrl.experiments.tables import note_left_out, titled
from ffrl.orthogonality import Cosines, pair_cosines, random_directions

_TITLES = {
    "gradients": "mean |cos| of the gradients of two potentials at a point of their paths",
    "displacements": "mean |cos| of z_T - z_0 along two flows from one image",
}


def orthogonality(subject: Subject, folder: Path) -> Findings:
    """Cosines of each pair, of their gradients and of what they move in all."""
    data = subject.data
    expected = random_directions(subject.config.preset.latent_dim)
    found: dict[str, dict[str, Cosines]] = {kind: {} for kind in _TITLES}
    left_out = {}
    for pair in pairs(data):
        name = " and ".join(names_of(data, pair))
        try:
            cosines = pair_cosines(subject.model, data, pair, subject.sequences, subject.potentials)
        except NoRoomError as error:
            left_out[name] = str(error)
        else:
            for kind, of_kind in zip(_TITLES, cosines, strict=True):
                found[kind][name] = of_kind
    require_some(found["gradients"], left_out, data)
    note = f"random in {expected.dim} dimensions: {expected.mean:.3f}, 95 % of them below {expected.quantile:.3f}"
    pictures = [
        save_png(heat_map(_matrix(subject, found[kind]), data.transformations, title, note), folder / f"{kind}.png")
        for kind, title in _TITLES.items()
    ]
    table = titled("Cosines between two flows", "∇u: cos", "|cos|", "sd", "z_T − z_0:\ncos", "|cos|", "sd")
    for name in found["gradients"]:
        numbers = [getattr(found[kind][name], part) for kind in _TITLES for part in ("mean", "mean_absolute", "sd")]
        table.add_row(name, *("–" if number is None else f"{number:.3f}" for number in numbers))
    table.add_row(f"random, D = {expected.dim}", *(2 * ("0", f"{expected.mean:.3f}", f"{expected.sd:.3f}")))
    results = {
        **{kind: {name: asdict(cosines) for name, cosines in of_kind.items()} for kind, of_kind in found.items()},
        "random_directions": asdict(expected),
        "left_out": left_out,
    }
    return Findings(results, (note_left_out(table, left_out),), tuple(pictures))


def _matrix(subject: Subject, cosines: dict[str, Cosines]) -> list[list[float | None]]:
    """mean |cos| of all pairs; a path goes its own way."""
    names = subject.data.transformations
    matrix: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
    for a, b in pairs(subject.data):
        found = cosines.get(" and ".join(names_of(subject.data, (a, b))))
        matrix[a][b] = matrix[b][a] = None if found is None else found.mean_absolute
    return matrix
