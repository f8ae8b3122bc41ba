"""Which learned potential stands for which transformation, where k was inferred and carries no name."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data import Dataset, Part
from ffrl.metrics.clustering import Clustering, matched_accuracy
from ffrl.models import FlowModel

DECIDING_SEQUENCES = 500


@dataclass(frozen=True)
class Matching:
    """potentials: the potential of each transformation, in their order. inferred: how well q(k|x) tells the
    transformations of held-out sequences apart; None where k was known and nothing was matched.
    """

    potentials: tuple[int, ...]
    inferred: Clustering | None


def match(model: FlowModel, data: Dataset, count: int | None = None) -> Matching:
    """The potentials that training sequences are most often sent to, one to one; scored on held-out ones.

    count: how many held-out sequences of each transformation, default all; 500 training sequences of each decide.
    """
    transformations = len(data.transformations)
    if model.classifier is None:
        return Matching(tuple(range(transformations)), None)
    label_of = matched_accuracy(*_classified(model, data, "train", DECIDING_SEQUENCES), transformations).label_of
    potentials = tuple(label_of.index(k) for k in range(transformations))
    q, labels = _classified(model, data, "held_out", count)
    # In the order of the transformations the matching found on the training sequences is the identity.
    return Matching(potentials, matched_accuracy(q[:, list(potentials)], labels, transformations))


@torch.no_grad()
def _classified(model: FlowModel, data: Dataset, part: Part, count: int | None) -> tuple[Tensor, Tensor]:
    """Logits (K·N, K) of N sequences of every transformation, and the true k (K·N,)."""
    assert model.classifier is not None
    logits, labels = [], []
    for k in range(len(data.transformations)):
        for frames in data.sequences(part, k, count):
            logits.append(model.classifier(frames.transpose(0, 1)))
            labels.append(torch.full((frames.shape[1],), k))
    return torch.cat(logits), torch.cat(labels)
