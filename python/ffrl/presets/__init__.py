"""Presets: what decides a training run, and those that have names."""

from ffrl.presets.named import PRESETS, find_preset
from ffrl.presets.preset import CONV_SIDES, LARGEST_SIZE, OWN_SETTINGS, Preset

__all__ = ["CONV_SIDES", "LARGEST_SIZE", "OWN_SETTINGS", "PRESETS", "Preset", "find_preset"]
