"""Small data sets of sequences."""

from dataclasses import replace

from ffrl.data import DigitDataset, Digits


def few(digits: Digits, train: int = 40, held_out: int = 20) -> DigitDataset:
    """The first `train` and `held_out` digits."""
    return DigitDataset(
        replace(
            digits,
            train=digits.train[:train],
            train_labels=digits.train_labels[:train],
            held_out=digits.held_out[:held_out],
            held_out_labels=digits.held_out_labels[:held_out],
        )
    )
