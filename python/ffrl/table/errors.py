"""The equivariance error of a system along its own transition and along fitted ones, with all references."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data import Dataset
from ffrl.evaluation import mean_over_sequences
from ffrl.systems import Comparable
from ffrl.table.transitions import AffineMap, ConstantStep, Transition

FITTING_SEQUENCES = 500
"""Of the training sequences of each transformation at most so many are fitted to."""


@dataclass(frozen=True)
class TransitionErrors:
    """Σ_t ‖x_t − y_t‖₁, t = 1…T, over pixels and channels, mean over held-out sequences of one transformation.

    own: y_t = decode(z_t) along the system's own transition; None where it has none. constant, affine: along the fitted
    ones from the code z_0 of x_0. standing_still: decode(z_0). pixel_identity: x_0. black: 0. reconstruction: decode of
    the code of x_t itself.
    training_constant, training_affine: of the fitted ones on the sequences that they were fitted to, which decide which
    of the two counts. sequences: how many held-out ones.
    """

    own: float | None
    constant: float
    affine: float
    standing_still: float
    pixel_identity: float
    black: float
    reconstruction: float
    training_constant: float
    training_affine: float
    sequences: int

    @property
    def counted(self) -> str:
        """The transition that counts for the system: "own", or the fitted one of less error in training."""
        if self.own is not None:
            return "own"
        return "constant" if self.training_constant <= self.training_affine else "affine"

    @property
    def error(self) -> float:
        """Along the transition that counts."""
        found = {"own": self.own, "constant": self.constant, "affine": self.affine}[self.counted]
        assert found is not None  # only an own one can be missing, and then it does not count
        return found

    @property
    def ratio(self) -> float:
        """error / standing_still: 0 is perfect, 1 is a transition that does nothing."""
        return self.error / self.standing_still

    @property
    def over_pixels(self) -> float:
        """error / the lesser of pixel_identity and black: below 1 it beats both images that need no model."""
        return self.error / min(self.pixel_identity, self.black)


@torch.no_grad()
def transition_errors(
    model: Comparable, data: Dataset, k: int, count: int | None = None, potential: int | None = None
) -> TransitionErrors:
    """Of transformation k, on `count` held-out sequences or all of them.

    potential: which of the model's own transitions stands for k (`ffrl.matching`); default: k itself.
    """
    index = k if potential is None else potential
    fitted = fit_transitions(model, data, k)
    training, _ = mean_over_sequences(
        data.sequences("train", k, FITTING_SEQUENCES), lambda frames: _fitted_errors(model, fitted, frames)
    )

    def sums(frames: Tensor) -> Tensor:
        path = model.own_path(frames, index)
        own = [] if path is None else [_errors(model, path, frames)]
        return torch.cat([_fitted_errors(model, fitted, frames), _reference_errors(model, frames), *own])

    means, rows = mean_over_sequences(data.sequences("held_out", k, count), sums)
    constant, affine, still, identity, black, reconstruction, *own = means.tolist()
    return TransitionErrors(
        own=own[0] if own else None,
        constant=constant,
        affine=affine,
        standing_still=still,
        pixel_identity=identity,
        black=black,
        reconstruction=reconstruction,
        training_constant=training[0].item(),
        training_affine=training[1].item(),
        sequences=rows,
    )


@torch.no_grad()
def fit_transitions(model: Comparable, data: Dataset, k: int) -> tuple[ConstantStep, AffineMap]:
    """Both, fitted to the codes of at most FITTING_SEQUENCES training sequences of transformation k."""
    parts = [model.codes(frames) for frames in data.sequences("train", k, FITTING_SEQUENCES)]
    codes = torch.cat(parts, dim=1)
    return ConstantStep.fit(codes), AffineMap.fit(codes)


def _fitted_errors(model: Comparable, fitted: Sequence[Transition], frames: Tensor) -> Tensor:
    z0 = model.codes(frames)[0]
    return torch.cat([_errors(model, transition.path(z0, len(frames) - 1), frames) for transition in fitted])


def _reference_errors(model: Comparable, frames: Tensor) -> Tensor:
    """Standing still, pixel identity, black, reconstruction: (4,)."""
    codes = model.codes(frames)
    still, first = model.decode(codes[0]), frames[0]
    images = (still, first, torch.zeros_like(first))
    return torch.cat([*(_l1(image, frames) for image in images), _errors(model, codes, frames)])


def _errors(model: Comparable, path: Tensor, frames: Tensor) -> Tensor:
    """Of decode(z_t), the sum over t = 1…T and sequences, for z_0…z_T (T + 1, N, D): float64 (1,)."""
    return _l1(model.decode(path[1:]), frames)


def _l1(images: Tensor, frames: Tensor) -> Tensor:
    """‖x_t − images‖₁, the sum over t = 1…T and sequences, for images (T, N, C, H, W), or (N, C, H, W) at every t:
    float64 (1,).
    """
    return (frames[1:] - images).abs().sum(dtype=torch.float64)[None]
