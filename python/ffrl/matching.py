"""Which learned potential stands for which transformation, where k was inferred and carries no name."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data import TRANSFORMATIONS, render_sequences
from ffrl.metrics.clustering import Clustering, matched_accuracy
from ffrl.models import FlowModel

DIGITS_AT_ONCE = 200
DECIDING_DIGITS = 500


@dataclass(frozen=True)
class Matching:
    """potentials: the potential of each transformation, in their order. inferred: how well q(k|x) tells the
    transformations of held-out sequences apart; None where k was known and nothing was matched.
    """

    potentials: tuple[int, ...]
    inferred: Clustering | None


def match(model: FlowModel, train: Tensor, held_out: Tensor) -> Matching:
    """The potentials that sequences of the digits `train` are most often sent to, one to one; scored on `held_out`.

    train, held_out: uint8 (N, 28, 28); of the training digits the first 500 decide.
    """
    count = len(TRANSFORMATIONS)
    if model.classifier is None:
        return Matching(tuple(range(count)), None)
    label_of = matched_accuracy(*_classified(model, train[:DECIDING_DIGITS]), count).label_of
    potentials = tuple(label_of.index(k) for k in range(count))
    q, labels = _classified(model, held_out)
    # In the order of the transformations the matching found on the training digits is the identity.
    return Matching(potentials, matched_accuracy(q[:, list(potentials)], labels, count))


@torch.no_grad()
def _classified(model: FlowModel, grey: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (K·N, K) of the sequences of every digit under every transformation, and the true k (K·N,)."""
    assert model.classifier is not None
    logits, labels = [], []
    for part in torch.split(grey, DIGITS_AT_ONCE):
        for k in range(len(TRANSFORMATIONS)):
            logits.append(model.classifier(render_sequences(part, k).transpose(0, 1)))
            labels.append(torch.full((len(part),), k))
    return torch.cat(logits), torch.cat(labels)
