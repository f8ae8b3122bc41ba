"""The presets that have names."""

from dataclasses import replace

from ffrl.errors import UserError
from ffrl.presets.preset import Preset

_PAPER = Preset(
    autoencoder="conv",
    latent_dim=324,
    conv_width=324,
    potential_width=324,
    potential_output="tanh",
    time_embedding="sinusoidal",
    batch_size=128,
    random_frames=8,
    random_start=0.0,
    substeps=1,
    hj_weight=1.0,
    initial_weight=1.0,
    density="exact",
    learning_rate=1e-4,
    adam_beta1=0.9,
    adam_beta2=0.999,
    warmup_iterations=0,
    schedule="constant",
    ema_decay=0.0,
    ema_every=1,
    iterations=90_000,
)
_PAPER_ROOM = replace(_PAPER, latent_dim=226, conv_width=226, potential_width=226, random_frames=7, iterations=100_000)

PRESETS: dict[str, Preset] = {
    "quickstart": Preset(),
    "weak": Preset(supervision="weak"),
    "clocked": Preset(time_embedding="sinusoidal", initial_weight=200.0, collocation_points=1),
    "sprites": Preset(latent_dim=16, hidden=(256, 128), substeps=1, iterations=7_000),
    # On these rooms an MLP learns more in a minute than a small ConvAutoencoder: a step is cheaper and goes further.
    "shapes": Preset(latent_dim=16, hidden=(256, 128), substeps=1, batch_size=30, iterations=7_000),
    "mnist-paper": _PAPER,
    "mnist-paper-code": replace(_PAPER, convention="paper_code", density="row_sum", hj_weight=8.0),
    "shapes3d-paper": _PAPER_ROOM,
    "falcor3d-paper": replace(_PAPER, autoencoder="conv_large", random_frames=4, iterations=100_000),
    "isaac3d-paper": replace(_PAPER, autoencoder="conv_large", random_frames=3, iterations=100_000),
}
"""The presets by name. Those of the paper have the sizes, steps, batch and Adam that its public code gives for each
data set, the paper's objective with all weights 1, and every frame decoded; they want a GPU. `mnist-paper-code` has
the public code's objective."""


def find_preset(name: str) -> Preset:
    """The preset of this name. UserError names those that exist."""
    if name not in PRESETS:
        raise UserError(f"--preset: expected {' or '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]
