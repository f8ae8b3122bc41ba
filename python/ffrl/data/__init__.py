"""Handwritten digits and the sequences made of them."""

from ffrl.data.digits import Digits, load_digits, load_digits_5k, load_mnist
from ffrl.data.sequences import SequenceBatch, SequenceSampler
from ffrl.data.transformations import IMAGE_SHAPE, NUM_STEPS, TRANSFORMATIONS, render, render_sequences

__all__ = [
    "IMAGE_SHAPE",
    "NUM_STEPS",
    "TRANSFORMATIONS",
    "Digits",
    "SequenceBatch",
    "SequenceSampler",
    "load_digits",
    "load_digits_5k",
    "load_mnist",
    "render",
    "render_sequences",
]
