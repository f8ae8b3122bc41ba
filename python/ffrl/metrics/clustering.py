"""Which transformation is it? The accuracy of q(k|x) whose k carry no names."""

from dataclasses import dataclass

import torch
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Clustering:
    """Clusters matched to true labels, one to one.

    accuracy: share of rows whose cluster is matched to their label, in [0, 1].
    collapsed: what one cluster for all rows would score, the share of the most frequent label; the reference.
    used: how many clusters hold a row.
    label_of: the label that each cluster is matched to; None for a cluster left over.
    confusion: rows of each cluster (K) by true label (C), counts.
    """

    accuracy: float
    collapsed: float
    used: int
    label_of: tuple[int | None, ...]
    confusion: tuple[tuple[int, ...], ...]


def matched_accuracy(q: Tensor, labels: Tensor, num_labels: int | None = None) -> Clustering:
    """Accuracy of argmax_k q(k|x) after the best matching of clusters to labels (Hungarian method).

    max over one-to-one matchings π of 1/N Σ_n [π(argmax_k q_nk) = label_n]. Two clusters for one label: one of them
    counts as wrong. Matched on the rows that it is scored on, so random clusters of few rows score above 1/C.

    Args:
        q: (N, K) real, a row of K scores or probabilities; the first of equal ones is taken.
        labels: (N,) int64, 0 … C − 1.
        num_labels: C; the greatest label + 1 when not given.
    """
    if q.ndim != 2 or len(q) == 0 or q.shape[1] == 0:
        raise ValueError(f"q: expected shape (N, K) with N ≥ 1 and K ≥ 1, found {tuple(q.shape)}")
    if not bool(torch.isfinite(q).all()):
        raise ValueError("q: expected finite numbers, found NaN or infinity")
    if labels.shape != (len(q),):
        raise ValueError(f"labels: expected shape ({len(q)},), found {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected torch.int64, found {labels.dtype}")
    count = int(labels.max()) + 1 if num_labels is None else num_labels
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise ValueError(f"labels: expected 0 … {count - 1}, found {int(labels.min())} … {int(labels.max())}")
    clusters = q.shape[1]
    table = torch.bincount(q.argmax(dim=1) * count + labels, minlength=clusters * count).view(clusters, count)
    chosen = zip(*linear_sum_assignment(table.cpu().numpy(), maximize=True), strict=True)
    label_of: list[int | None] = [None] * clusters
    right = 0
    for cluster, label in chosen:
        label_of[int(cluster)] = int(label)
        right += int(table[cluster, label])
    return Clustering(
        accuracy=right / len(q),
        collapsed=int(table.sum(0).max()) / len(q),
        used=int((table.sum(1) > 0).sum()),
        label_of=tuple(label_of),
        confusion=tuple(tuple(row) for row in table.tolist()),
    )


def as_table(clustering: Clustering, names: tuple[str, ...]) -> Table:
    """The confusion table for the terminal; names: of the labels."""
    found = len(clustering.confusion[0])
    if len(names) != found:
        raise ValueError(f"names: expected {found}, one a label, found {len(names)}")
    title = f"q(k|x): accuracy {clustering.accuracy:.3f} (one cluster for all: {clustering.collapsed:.3f})"
    table = Table(title=title, title_justify="left")
    table.add_column("cluster, matched to")
    for name in names:
        table.add_column(name, justify="right")
    for k, row in enumerate(clustering.confusion):
        label = clustering.label_of[k]
        table.add_row(f"{k}, {'none' if label is None else names[label]}", *(str(count) for count in row))
    return table
