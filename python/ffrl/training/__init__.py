"""Training: budget and schedule, moving average, logs, checkpoints, and the trainer that uses them."""

from ffrl.training.budget import Budget
from ffrl.training.trainer import Trainer

__all__ = ["Budget", "Trainer"]
