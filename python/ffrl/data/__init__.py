"""Data sets and the sequences made of them: handwritten digits, and images by their factors of variation."""

from ffrl.data.catalogue import DATASETS, Dataset, find_dataset
from ffrl.data.digits import Digits, load_digits, load_digits_5k, load_mnist
from ffrl.data.dsprites import DSprites
from ffrl.data.factor_sequences import FactorSequenceBatch, FactorSequences
from ffrl.data.factors import Factor, FactorImages
from ffrl.data.image_folders import ImageFolder, load_falcor3d, load_isaac3d
from ffrl.data.sequences import SequenceBatch, SequenceSampler
from ffrl.data.shapes import Shapes
from ffrl.data.shapes3d import Shapes3D
from ffrl.data.sprites import Sprites
from ffrl.data.transformations import IMAGE_SHAPE, NUM_STEPS, TRANSFORMATIONS, render, render_sequences

__all__ = [
    "DATASETS",
    "IMAGE_SHAPE",
    "NUM_STEPS",
    "TRANSFORMATIONS",
    "DSprites",
    "Dataset",
    "Digits",
    "Factor",
    "FactorImages",
    "FactorSequenceBatch",
    "FactorSequences",
    "ImageFolder",
    "SequenceBatch",
    "SequenceSampler",
    "Shapes",
    "Shapes3D",
    "Sprites",
    "find_dataset",
    "load_digits",
    "load_digits_5k",
    "load_falcor3d",
    "load_isaac3d",
    "load_mnist",
    "render",
    "render_sequences",
]
