"""q(k|x_0…x_T): which of the K transformations a sequence shows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffrl.data.dataset import SequenceFormat

_POOLED_SIDE = 14


class SequenceClassifier(nn.Module):
    """Logits (B, K) of whole sequences (B, T + 1, C, H, W), from all frames at once at a low resolution.

    The frames are averaged over squares of pixels, down to about 14×14, and what each differs from frame 0 is put
    beside frame 0: a transformation shows in the differences, whatever moves.
    """

    def __init__(self, sequences: SequenceFormat, width: int) -> None:
        super().__init__()
        channels, height, columns = sequences.image_shape
        self.pool = max(1, height // _POOLED_SIDE)
        features = (sequences.num_steps + 1) * channels * (height // self.pool) * (columns // self.pool)
        self.layers = nn.Sequential(
            nn.Linear(features, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, len(sequences)),
        )

    def forward(self, sequence: Tensor) -> Tensor:
        small = F.avg_pool2d(sequence.flatten(0, 1), self.pool).unflatten(0, sequence.shape[:2])
        first, rest = small[:, :1], small[:, 1:]
        logits: Tensor = self.layers(torch.cat([first, rest - first], dim=1).flatten(1))
        return logits


def straight_through(logits: Tensor, gumbel: Tensor, temperature: float) -> Tensor:
    """A sample of q(k|x), one-hot (B, K), whose gradient is that of softmax((logits + gumbel) / temperature).

    gumbel (B, K): standard Gumbel noise. Jang, Gu, Poole, ICLR 2017, arXiv 1611.01144.
    """
    soft = torch.softmax((logits + gumbel) / temperature, dim=1)
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
    return hard + soft - soft.detach()
