"""Log-likelihoods of image sequences, bounded from below by importance samples of z_0, and what no model can pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ffrl.density import gaussian_log_density
from ffrl.errors import UserError
from ffrl.models import FlowModel

Likelihood = Literal["bernoulli", "normal"]

#: Elements of decoded frames in memory at once.
ELEMENTS_AT_ONCE = 2**24

# A sum of many float32 terms may pass an exact cap by its rounding.
_ROUNDING = 1e-5


class CapPassedError(UserError):
    """A log-likelihood above what is possible: its likelihood, data or sums are not what they are said to be."""


class SequenceModel(NamedTuple):
    """A model of sequences by what the bound asks of it.

    encode: images (B, …) → mean and log variance of q(z_0|x_0), each (B, D).
    flow: z_0 (B, D), index (B,) int64, T → z_0 … z_T, (T + 1, B, D); each row by itself.
    decode: z (B, D) → images (B, …): Bernoulli logits, or means of N(·, 1), as the likelihood asks.
    """

    encode: Callable[[Tensor], tuple[Tensor, Tensor]]
    flow: Callable[[Tensor, Tensor, int], Tensor]
    decode: Callable[[Tensor], Tensor]


def of_flow_model(model: FlowModel, likelihood: Likelihood) -> SequenceModel:
    """`FlowModel` as the bound asks for it; under "normal" the means are decode(z), in [0, 1]."""
    _check_likelihood(likelihood)
    coder = model.autoencoder

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = coder.encode(images)
        return posterior.mean, posterior.log_variance

    def flow(z0: Tensor, index: Tensor, steps: int) -> Tensor:
        return model.flow(z0, index, steps=steps)

    return SequenceModel(encode, flow, coder.decode_logits if likelihood == "bernoulli" else coder.decode)


@dataclass(frozen=True, eq=False)
class SequenceBound:
    """A lower bound, in expectation, of log p(x_0 … x_T | k); nats, sums over frames and pixels.

    rows: (B,) float64, of each sequence. caps: (B,) float64, what its log-likelihood cannot exceed.
    effective: (B,), how many of the samples carry the weight, (Σw)² / Σw², from 1 to S. Near 1 the bound is one
    sample's and loose.
    likelihood, frames (T + 1), samples (S): what was asked.
    """

    rows: Tensor
    caps: Tensor
    effective: Tensor
    likelihood: Likelihood
    frames: int
    samples: int

    @property
    def mean(self) -> float:
        """Nats a sequence."""
        return self.rows.mean().item()

    @property
    def per_frame(self) -> float:
        """Nats a frame: of the sequence, shared out evenly. Not the log-likelihood of a frame."""
        return self.mean / self.frames

    @property
    def cap_per_frame(self) -> float:
        """What `per_frame` cannot exceed; print it beside."""
        return self.caps.mean().item() / self.frames

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread over sequences; NaN for one."""
        return (self.rows.std() / math.sqrt(len(self.rows))).item() if len(self.rows) > 1 else math.nan

    @property
    def meaning(self) -> str:
        """What is bounded, in words, to print beside the number."""
        under = {
            "normal": "N(x; decode(z), 1)",
            "bernoulli": "the Bernoulli cross-entropy of grey targets, which is no density of grey images",
        }[self.likelihood]
        return (
            f"In expectation a lower bound of log p(x_0…x_{self.frames - 1} | k), the joint log-likelihood of "
            f"{self.frames} frames given the transformation k, in nats a sequence, by {self.samples} importance "
            f"samples of z_0 from q(z_0|x_0), under {under}. It is not a sum of log p(x_t), nor an ELBO."
        )

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "samples": self.samples,
            "likelihood": self.likelihood,
            "mean": self.mean,
            "standard_error": self.standard_error if len(self.rows) > 1 else None,
            "per_frame": self.per_frame,
            "cap_per_frame": self.cap_per_frame,
            "effective_samples": self.effective.mean().item(),
            "sequences": len(self.rows),
            "frames": self.frames,
        }


@torch.no_grad()
def joint_bound(
    model: SequenceModel,
    frames: Tensor,
    index: Tensor,
    *,
    samples: int,
    likelihood: Likelihood,
    generator: torch.Generator,
    elements_at_once: int = ELEMENTS_AT_ONCE,
) -> SequenceBound:
    """The joint importance-weighted bound (Burda, Grosse, Salakhutdinov 2016, arXiv 1509.00519, with latent z_0).

        log 1/S Σ_s p(z_0ˢ) / q(z_0ˢ|x_0) Π_t p(x_t | z_t(z_0ˢ)),   z_0ˢ ~ q(z_0|x_0), p(z_0) = N(0, I)

    The flow is a function of z_0, so no determinant is needed and a step may fold. In expectation it rises with S and
    reaches log p(x_0…x_T | k) as S → ∞; q looks at x_0 alone, so where later frames say more about z_0 many samples
    are needed: read `effective`.

    Args:
        model: see :class:`SequenceModel` and :func:`of_flow_model`.
        frames: (T + 1, B, …) real; for "bernoulli" in [0, 1].
        index: (B,) int64, k of each sequence.
        samples: S ≥ 1.
        likelihood: "bernoulli", Σ x log p + (1 − x) log(1 − p), or "normal", N(x; ·, 1).
        generator: of the noise, on the device of the frames; drawn sample by sample, so that chunks do not change it.
        elements_at_once: decoded numbers held at once; bounds the memory whatever S and B are, down to one sequence.

    Raises:
        ValueError, TypeError: naming the argument.
        CapPassedError: where log Π_t p(x_t|z_t) of a sample passes its cap, which no image can do.
    """
    _check_likelihood(likelihood)
    if frames.ndim < 3 or 0 in frames.shape:
        raise ValueError(f"frames: expected shape (T + 1, B, …), nowhere 0, found {tuple(frames.shape)}")
    length, rows = frames.shape[:2]
    if index.shape != (rows,):
        raise ValueError(f"index: expected shape ({rows},), found {tuple(index.shape)}")
    if index.dtype != torch.int64:
        raise TypeError(f"index: expected torch.int64, found {index.dtype}")
    for name, number in (("samples", samples), ("elements_at_once", elements_at_once)):
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, found {number}")
    caps = log_likelihood_caps(frames, likelihood)

    one_sequence = frames[:, 0].numel()
    rows_at_once = min(rows, max(1, elements_at_once // one_sequence))
    samples_at_once = min(samples, max(1, elements_at_once // (one_sequence * rows_at_once)))
    parts = torch.split(torch.arange(rows, device=frames.device), rows_at_once)
    posteriors = [model.encode(frames[0, part]) for part in parts]
    mean, log_variance = (torch.cat(pieces) for pieces in zip(*posteriors, strict=True))

    log_sum = torch.full_like(caps, -math.inf)
    log_square_sum = log_sum.clone()
    for first in range(0, samples, samples_at_once):
        count = min(samples_at_once, samples - first)
        noise = torch.stack([torch.empty_like(mean).normal_(generator=generator) for _ in range(count)])
        for part in parts:
            z0 = mean[part] + torch.exp(0.5 * log_variance[part]) * noise[:, part]
            path = model.flow(z0.flatten(0, 1), index[part].repeat(count), length - 1)
            images = model.decode(path.flatten(0, 1)).view(length, count, *frames[:, part].shape[1:])
            given_z = _log_likelihood(images, frames[:, None, part], likelihood)
            refuse_above_cap(given_z, caps[part], f"log Π_t p(x_t|z_t), {likelihood}")
            log_p = gaussian_log_density(z0, torch.zeros_like(z0), torch.zeros_like(z0))
            log_q = gaussian_log_density(z0, mean[part], log_variance[part])
            log_weight = (log_p - log_q).double() + given_z
            log_sum[part] = torch.logaddexp(log_sum[part], log_weight.logsumexp(0))
            log_square_sum[part] = torch.logaddexp(log_square_sum[part], (2 * log_weight).logsumexp(0))
    effective = torch.exp(2 * log_sum - log_square_sum)
    return SequenceBound(log_sum - math.log(samples), caps, effective, likelihood, length, samples)


def log_likelihood_caps(frames: Tensor, likelihood: Likelihood) -> Tensor:
    """What log p(x_0…x_T) of each sequence cannot exceed, (B,) float64, for frames (T + 1, B, …).

    "normal": −½ (T + 1)·pixels·log 2π, the density of N(x; ·, 1) at its peak. "bernoulli": −Σ H(x), the entropy of grey
    targets, H(x) = −x log x − (1 − x) log(1 − x), reached by decode(z) = x; 0 for black and white ones.
    """
    _check_likelihood(likelihood)
    dims = tuple(d for d in range(frames.ndim) if d != 1)
    if likelihood == "normal":
        size = frames[:, 0].numel()
        return frames.new_full((frames.shape[1],), -0.5 * size * math.log(2 * math.pi), dtype=torch.float64)
    if not bool(((frames >= 0) & (frames <= 1)).all()):
        raise ValueError("frames: expected values in [0, 1] for a Bernoulli likelihood, found others")
    x = frames.double()
    return (torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).sum(dim=dims)


def refuse_above_cap(value: Tensor | float, cap: Tensor | float, name: str) -> None:
    """Refuse log-likelihoods that no model can have: any value above its cap, or NaN; shapes broadcast.

    An estimate by few samples may be above by chance only where every sample is at the cap already.

    Raises:
        CapPassedError: naming `name`, the value and the cap.
    """
    given = torch.as_tensor(value, dtype=torch.float64)
    values, caps = torch.broadcast_tensors(given, torch.as_tensor(cap, dtype=torch.float64, device=given.device))
    # Written so that NaN is refused.
    passed = ~(values <= caps + _ROUNDING * (1 + caps.abs()))
    if bool(passed.any()):
        worst, limit = values[passed][0].item(), caps[passed][0].item()
        raise CapPassedError(f"{name}: expected at most {limit:.6g} nats, found {worst:.6g}")


def log_likelihood(images: Tensor, frames: Tensor, likelihood: Likelihood) -> Tensor:
    """log Π_t p(x_t|z_t), (B,) float64, of images (T + 1, B, …) as `SequenceModel.decode` gives them and frames alike.

    CapPassedError: a value above `log_likelihood_caps`, which no image can reach.
    """
    found = _log_likelihood(images[:, None], frames[:, None], likelihood)[0]
    refuse_above_cap(found, log_likelihood_caps(frames, likelihood), f"log Π_t p(x_t|z_t), {likelihood}")
    return found


def _log_likelihood(images: Tensor, frames: Tensor, likelihood: Likelihood) -> Tensor:
    """images (T + 1, S, B, …) as decoded, frames (T + 1, 1, B, …) → log Π_t p(x_t|z_t), (S, B) float64."""
    dims = (0, *range(3, images.ndim))
    if likelihood == "normal":
        square = (images - frames).square().sum(dim=dims, dtype=torch.float64)
        size = images[:, 0, 0].numel()
        return -0.5 * (square + size * math.log(2 * math.pi))
    entropy = binary_cross_entropy_with_logits(images, frames.expand_as(images), reduction="none")
    return -entropy.sum(dim=dims, dtype=torch.float64)


def _check_likelihood(likelihood: str) -> None:
    if likelihood not in get_args(Likelihood):
        raise ValueError(f"likelihood: expected 'bernoulli' or 'normal', found {likelihood!r}")
