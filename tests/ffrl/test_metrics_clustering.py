"""The accuracy of q(k|x) after matching, against every permutation there is."""

import io
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch.nn.functional import one_hot

from ffrl.metrics.clustering import as_table, matched_accuracy


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**16))
def test_the_best_of_all_matchings(clusters: int, labels: int, rows: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, truth = torch.rand(rows, clusters, generator=g), torch.randint(labels, (rows,), generator=g)
    found = matched_accuracy(q, truth, labels)
    # Padded to a square, every one-to-one matching of clusters to labels is among these.
    size = max(clusters, labels)
    named = q.argmax(1)
    best = max((torch.tensor(p)[named] == truth).double().mean().item() for p in permutations(range(size)))
    assert found.accuracy == pytest.approx(best)
    own = torch.tensor([-1 if label is None else label for label in found.label_of])
    assert (own[named] == truth).double().mean().item() == pytest.approx(found.accuracy)
    matched = [label for label in found.label_of if label is not None]
    assert len(set(matched)) == len(matched) == min(clusters, labels)
    for k in range(clusters):
        for c in range(labels):
            assert found.confusion[k][c] == int(((named == k) & (truth == c)).sum())


def test_renamed_clusters_are_perfect() -> None:
    truth = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    found = matched_accuracy(one_hot((truth + 1) % 3).double(), truth)
    assert found.accuracy == 1
    assert found.label_of == (2, 0, 1)
    assert found.used == 3
    assert found.collapsed == pytest.approx(3 / 7)


def test_one_cluster_for_all_scores_the_most_frequent_label() -> None:
    truth = torch.tensor([0, 1, 1, 2])
    found = matched_accuracy(torch.tensor([[0.1, 0.9, 0.0]]).expand(4, 3), truth)
    assert found.accuracy == found.collapsed == 0.5
    assert found.used == 1
    assert found.label_of[1] == 1


def test_two_clusters_of_one_label_count_once() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    found = matched_accuracy(one_hot(torch.tensor([0, 0, 1, 2])).double(), truth)
    assert found.accuracy == 0.75
    assert found.label_of == (0, None, 1)


def test_the_table_names_labels() -> None:
    found = matched_accuracy(one_hot(torch.tensor([0, 0, 1, 2])).double(), torch.tensor([1, 1, 1, 0]))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(found, ("scale", "rotate")))
    text = console.export_text()
    lines = text.splitlines()
    assert any("0, rotate" in line and "2" in line for line in lines)
    assert any("1, none" in line for line in lines)
    assert "accuracy 0.750 (one cluster for all: 0.750)" in " ".join(text.split())
    with pytest.raises(ValueError, match="names: expected 2, one a label, found 1"):
        as_table(found, ("scale",))


def test_unusable_arguments_are_refused() -> None:
    q, truth = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    for call, error, message in (
        (lambda: matched_accuracy(q[0], truth), ValueError, r"q: expected shape \(N, K\).*found \(3,\)"),
        (lambda: matched_accuracy(q[:0], truth[:0]), ValueError, r"q: expected shape .*found \(0, 3\)"),
        (lambda: matched_accuracy(q * torch.nan, truth), ValueError, "q: expected finite numbers"),
        (lambda: matched_accuracy(q, truth[:3]), ValueError, r"labels: expected shape \(4,\), found \(3,\)"),
        (lambda: matched_accuracy(q, truth.float()), TypeError, "labels: expected torch.int64, found torch.float32"),
        (lambda: matched_accuracy(q, truth, 2), ValueError, "labels: expected 0 … 1, found 0 … 2"),
        (lambda: matched_accuracy(q, truth - 1), ValueError, "labels: expected 0 … 1, found -1 … 1"),
    ):
        with pytest.raises(error, match=message):
            call()
