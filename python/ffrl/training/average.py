"""The exponential moving average of the weights, which is what evaluation uses."""

import torch
from torch import Tensor, nn


class MovingAverage:
    """average ← dᵐ · average + (1 − dᵐ) · weights, at every m-th call of `update`, m = `every`; before the first of
    these, the weights themselves.

    At iteration n d = min(decay, (1 + n)/(10 + n)): the first weights, which are noise, are soon forgotten, so that a
    short run has an average that is worth something. With decay 0 it is the weights themselves, and an update has
    nothing to do.

    One update in ten, with the tenth power of the decay, gives nearly the same average for a tenth of the memory
    traffic, which on a CPU is a noticeable part of a step.
    """

    def __init__(self, model: nn.Module, decay: float, every: int) -> None:
        self.decay = decay
        self.every = every
        state = {name: value.detach() for name, value in model.state_dict().items()}
        self.average = state if decay == 0 else {name: value.clone() for name, value in state.items()}

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """To be called after each iteration, counted from 1."""
        if self.decay == 0:
            return
        if iteration < self.every:
            self.load_state_dict(model.state_dict())
        if iteration % self.every != 0:
            return
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.average.values()), list(model.state_dict().values()), 1 - decay**self.every)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, by the model's names."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over averaged weights."""
        for name, value in self.average.items():
            value.copy_(state[name])
