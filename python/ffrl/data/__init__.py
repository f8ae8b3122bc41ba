"""Data sets and the sequences made of them: handwritten digits, and images by their factors of variation."""

from ffrl.data.batch import SequenceBatch
from ffrl.data.catalogue import DATASETS, find_dataset
from ffrl.data.dataset import Dataset, Part, Plan, Sampler, SequenceFormat
from ffrl.data.digit_dataset import DigitDataset
from ffrl.data.digits import Digits, load_digits, load_digits_5k, load_mnist
from ffrl.data.dsprites import DSprites
from ffrl.data.factor_dataset import FactorDataset, FactorSampler
from ffrl.data.factor_sequences import FactorSequenceBatch, FactorSequences
from ffrl.data.factors import Factor, FactorImages
from ffrl.data.image_folders import ImageFolder, load_falcor3d, load_isaac3d
from ffrl.data.sequences import SequenceSampler
from ffrl.data.shapes import Shapes
from ffrl.data.shapes3d import Shapes3D
from ffrl.data.sprites import Sprites
from ffrl.data.transformations import FORMAT as DIGIT_FORMAT
from ffrl.data.transformations import IMAGE_SHAPE, NUM_STEPS, TRANSFORMATIONS, render, render_sequences

__all__ = [
    "DATASETS",
    "DIGIT_FORMAT",
    "IMAGE_SHAPE",
    "NUM_STEPS",
    "TRANSFORMATIONS",
    "DSprites",
    "Dataset",
    "DigitDataset",
    "Digits",
    "Factor",
    "FactorDataset",
    "FactorImages",
    "FactorSampler",
    "FactorSequenceBatch",
    "FactorSequences",
    "ImageFolder",
    "Part",
    "Plan",
    "Sampler",
    "SequenceBatch",
    "SequenceFormat",
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
