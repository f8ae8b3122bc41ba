"""What the trainer and the table ask of every system."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ffrl.data.batch import FrameChoice, SequenceBatch


class Terms(Protocol):
    """A NamedTuple of scalars, `loss` first: batch means of the objective and of its terms."""

    @property
    def loss(self) -> Tensor: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def _asdict(self) -> dict[str, Tensor]: ...


class Noise(Protocol):
    """The random numbers of one step, drawn for the whole batch whoever computes which rows of it."""

    def share(self, number: int, shares: int) -> "Noise":
        """The numbers of every `shares`-th row from row `number` on."""

    def to(self, device: torch.device) -> "Noise":
        """The same on `device`."""


class Comparable(Protocol):
    """What the table asks of every system.

    supervision: what the system is told in training beside images. sees: what `own_path` looks at in a test sequence,
    None where the system has no transition. Short texts, for columns of the table.
    """

    supervision: str
    sees: str | None

    def codes(self, frames: Tensor) -> Tensor:
        """The codes of true frames x_0…x_S, (S + 1, N, C, H, W) in [0, 1] → (S + 1, N, D)."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (…, D) → mean images (…, C, H, W) of p(x|code), in [0, 1]."""
        ...

    def own_path(self, frames: Tensor, k: int) -> Tensor | None:
        """The codes that the system itself predicts for t = 0…S, (S + 1, N, D), from what it `sees` of the frames
        (S + 1, N, C, H, W) and the transformation k; None where it has no transition.
        """
        ...

    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p(x_0…x_S, latents | k) − log q(latents | x) for one sample of q, (N,) float64.

        The logarithm of the mean of exp over S calls is in expectation a lower bound of log p(x_0…x_S | k) (Burda,
        Grosse, Salakhutdinov, ICLR 2016, arXiv 1509.00519). frames (S + 1, N, C, H, W); generator: of the noise, on
        their device, S calls with one generator being S samples. CapPassedError: log p(x|latents) passes what any
        image can have.
        """
        ...


class System(nn.Module, ABC):
    """A `Comparable` that the trainer can train.

    terms: the NamedTuple that `objective` returns; its fields are columns of the log. frame_choice: which frames of
    each sequence a training step looks at.
    """

    supervision: str
    sees: str | None
    terms: ClassVar[type[Any]]
    frame_choice: FrameChoice = FrameChoice()

    @abstractmethod
    def draw_noise(self, rows: int, generator: torch.Generator) -> Noise:
        """The random numbers of a step's objective for a batch of `rows` rows."""

    @abstractmethod
    def objective(self, batch: SequenceBatch, noise: Any, temperature: float) -> Terms:
        """What a step lowers, and its terms, in nats.

        noise: of `draw_noise`, for these rows. temperature: of the preset, at this point of the budget.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For Adam; whatever a group does not say is as the preset says."""
        return [{"params": list(self.parameters())}]

    def headline(self, values: Mapping[str, float]) -> str:
        """The terms that a progress line has room for."""
        return f"loss {values['loss']:.0f}  KL {values['kl']:.1f}"

    @abstractmethod
    def codes(self, frames: Tensor) -> Tensor:
        """See `Comparable`."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """See `Comparable`."""

    @abstractmethod
    def own_path(self, frames: Tensor, k: int) -> Tensor | None:
        """See `Comparable`."""

    @abstractmethod
    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """See `Comparable`."""
