"""The compared systems: each its own way to learn codes of sequences, all with the same networks of images.

What the table asks of each is `Comparable`; what the trainer asks, `System`.
"""

from collections.abc import Callable

from ffrl.data.dataset import SequenceFormat
from ffrl.presets import Preset
from ffrl.systems.factor_vae import FactorVAE
from ffrl.systems.flow import FlowSystem
from ffrl.systems.potential_traversal import PotentialTraversal
from ffrl.systems.slow_vae import SlowVAE
from ffrl.systems.system import Comparable, System, Terms
from ffrl.systems.topographic_vae import TopographicVAE
from ffrl.systems.vae import VAE

__all__ = ["SYSTEMS", "Comparable", "System", "Terms", "build"]

SYSTEMS: dict[str, Callable[[Preset, SequenceFormat], System]] = {
    "flow": FlowSystem,
    "vae": VAE,
    "factor_vae": FactorVAE,
    "slow_vae": SlowVAE,
    "topographic_vae": TopographicVAE,
    "potential_traversal": PotentialTraversal,
}
"""The systems by the names that `Preset.system` has for them."""


def build(preset: Preset, sequences: SequenceFormat) -> System:
    """The untrained system of a preset, for sequences of this format; weights from torch's global generator."""
    return SYSTEMS[preset.system](preset, sequences)
