"""The joint log-likelihood of held-out sequences, bounded for every system by its own importance samples."""

import math
from collections.abc import Sequence

import torch

from ffrl.bounds import NOISE_SEED
from ffrl.data import Dataset
from ffrl.metrics.likelihood import Likelihood, SequenceBound, log_likelihood_caps, refuse_above_cap
from ffrl.systems import Comparable


@torch.no_grad()
def bound_of_system(
    model: Comparable,
    data: Dataset,
    likelihood: Likelihood,
    samples: int,
    count: int,
    potentials: Sequence[int] | None = None,
) -> SequenceBound:
    """log 1/S Σ_s w_s, w_s of `Comparable.log_weights`, over `count` held-out sequences of each transformation, or as
    many as there are: in expectation a lower bound of log p(x_0…x_T | k).

    samples: S. potentials: which of the model's transitions stands for each transformation (`ffrl.matching`); default:
    its own. CapPassedError: the mean is above what any model can have.
    """
    rows, caps, effective = [], [], []
    for k in range(len(data.transformations)):
        generator = torch.Generator().manual_seed(NOISE_SEED)
        index = k if potentials is None else potentials[k]
        for frames in data.sequences("held_out", k, count):
            log_w = torch.stack([model.log_weights(frames, index, generator) for _ in range(samples)])
            log_sum = log_w.logsumexp(0)
            rows.append(log_sum - math.log(samples))
            effective.append(torch.exp(2 * log_sum - (2 * log_w).logsumexp(0)))
            caps.append(log_likelihood_caps(frames, likelihood))
    bound = SequenceBound(
        torch.cat(rows), torch.cat(caps), torch.cat(effective), likelihood, data.num_steps + 1, samples
    )
    refuse_above_cap(bound.mean, bound.caps.mean(), f"mean of the joint bound with {samples} samples")
    return bound
