"""Every system at the size of `small_preset`, and batches for one that is not trained by a `Trainer`."""

import torch

from few import few
from ffrl.data import DIGIT_FORMAT, Digits, SequenceBatch
from ffrl.presets import Preset
from ffrl.systems import System, build

SETTINGS = {
    "flow": [],
    "vae": [],
    "factor_vae": ["discriminator_width=16", "discriminator_learning_rate=0.002"],
    "slow_vae": [],
    "topographic_vae": ["capsule_length=3"],
    "potential_traversal": [],
}


def preset_of(system: str, small: Preset, *changes: str) -> Preset:
    """The small preset of a system."""
    return small.override([f"system={system}", *SETTINGS[system], *changes])


def system_of(preset: Preset, seed: int = 0) -> System:
    """For digits, with weights of this seed."""
    torch.manual_seed(seed)
    return build(preset, DIGIT_FORMAT)


def batch_of(system: System, preset: Preset, digits: Digits, seed: int = 1) -> SequenceBatch:
    """A batch as the system wants it."""
    generator = torch.Generator().manual_seed(seed)
    sizes = preset.batch_size, preset.random_frames, preset.random_start
    sampler = few(digits).sampler(*sizes, generator, **system.frame_choice._asdict())
    return sampler.render(sampler.plan())


def frames_of(digits: Digits, k: int = 1, count: int = 3) -> torch.Tensor:
    """Held-out sequences x_0…x_8 of one transformation, (9, N, 3, 28, 28)."""
    return few(digits).fixed("held_out", k, 0, count)
