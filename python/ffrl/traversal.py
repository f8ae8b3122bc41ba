"""Pictures of the flows: the true sequence above what the flow draws."""

from pathlib import Path

import torch
from torch import Tensor

from ffrl.composed_paths import Potentials, potentials_of
from ffrl.data import Dataset
from ffrl.drawing import save_sequences
from ffrl.models import LatentFlow


def draw_traversals(
    model: LatentFlow, data: Dataset, count: int, folder: Path, potentials: Potentials = None
) -> list[Path]:
    """Write {transformation}.png (strips) and {transformation}.gif (animation, T + 1 frames) into `folder`.

    count: how many held-out sequences to show. potentials: which potential stands for each transformation; default: its
    own. Returns the paths written.
    """
    paths = []
    for k, name in enumerate(data.transformations):
        (index,) = potentials_of((k,), potentials)
        chunks = data.sequences("held_out", k, count)
        shown = [truth_and_flow(model, frames, index) for frames in chunks]
        truth, drawn = (torch.cat(parts, dim=1) for parts in zip(*shown, strict=True))
        note = "held out, the flow starts from the encoding of t = 0"
        paths += save_sequences({"true": truth, "flow": drawn}, name, note, folder / name)
    return paths


@torch.no_grad()
def truth_and_flow(model: LatentFlow, truth: Tensor, potential: int) -> tuple[Tensor, Tensor]:
    """The true frames x_t and the flow's decode(z_t), each (S + 1, N, C, H, W); z_0 is the posterior mean of x_0."""
    z = model.flow(model.autoencoder.encode(truth[0]).mean, potential, steps=len(truth) - 1)
    return truth, model.autoencoder.decode(z)
