"""The paper's experiments on a trained run: each writes pictures and one JSON file with its numbers."""

from ffrl.experiments.conduct import EXPERIMENTS, conduct
from ffrl.experiments.subject import Findings, Subject

__all__ = ["EXPERIMENTS", "Findings", "Subject", "conduct"]
