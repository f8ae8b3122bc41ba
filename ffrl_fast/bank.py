"""K learned potentials u^k(z, t) in one module."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Self, get_args

import torch
from torch import Tensor, nn

from ffrl_fast import reference
from ffrl_fast.layout import NetworkShape, OutActivation, TimeEmbedding, Weights


class PotentialBank(nn.Module):
    r"""K potentials of one shape, one per transformation, with their parameters stacked.

    For a row z (D,) at time t, each potential is

    .. math::
        a = \tanh(W_{in} z + b_{in}),\quad c_1 = \tanh(W_1 (a + \tau(t)) + b_1),\quad
        c_\ell = \tanh(W_\ell c_{\ell-1} + b_\ell),\quad u = \varphi(w_{out} \cdot c_L + b_{out})

    Args:
        num_potentials: K.
        dim: D, the latent dimension.
        width: H, the width of every layer; D when not given (as in the paper).
        depth: L ≥ 1, the number of hidden layers.
        out_activation: φ, "tanh" (the paper: \|u\| ≤ 1) or "identity".
        time_embedding: how u depends on t.
            "sinusoidal": τ(t) = W₂ GELU(W₁ PE(t) + b₁) + b₂ with PE the sinusoidal embedding of size D;
            "none": u(z), τ = 0;
            "separable": u(z, t) = S(z) − E t, Hamilton's characteristic function, E one learned scalar a potential.

    To condition on time in another way, override :meth:`conditioning`; τ and dτ/dt may then depend on parameters of
    the subclass, whose gradients flow.

    The one parameter ``theta`` (K, P) holds all weights; :meth:`weights` gives views by name. Weights start as those
    of ``torch.nn.Linear``, E at 0.

    Raises:
        ValueError: for a size below 1 or an unknown choice.
    """

    def __init__(
        self,
        num_potentials: int,
        dim: int,
        width: int | None = None,
        depth: int = 1,
        out_activation: OutActivation = "tanh",
        time_embedding: TimeEmbedding = "sinusoidal",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        width = dim if width is None else width
        sizes = {"num_potentials": num_potentials, "dim": dim, "width": width, "depth": depth}
        for name, value in sizes.items():
            if not isinstance(value, (int, numbers.Integral)) or isinstance(value, bool) or int(value) < 1:
                raise ValueError(f"{name}: expected an integer ≥ 1, found {value!r}")
        num_potentials, dim, width, depth = map(int, sizes.values())
        for name, choice, allowed in (
            ("out_activation", out_activation, get_args(OutActivation)),
            ("time_embedding", time_embedding, get_args(TimeEmbedding)),
        ):
            if choice not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, found {choice!r}")
        self.num_potentials = num_potentials
        #: A subclass conditions on time in its own way; the native engine then asks it for τ and dτ/dt.
        self.has_own_conditioning = type(self).conditioning is not PotentialBank.conditioning
        self.shape = NetworkShape(dim, width, depth, out_activation, time_embedding)
        self.theta = nn.Parameter(torch.empty(num_potentials, self.shape.num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def dim(self) -> int:
        """D, the latent dimension."""
        return self.shape.dim

    def extra_repr(self) -> str:
        s = self.shape
        return (
            f"num_potentials={self.num_potentials}, dim={s.dim}, width={s.width}, depth={s.depth}, "
            f"out_activation={s.out_activation!r}, time_embedding={s.time_embedding!r}"
        )

    def weights(self) -> Weights:
        """Views of ``theta`` by name, each with the potentials first; gradients flow through them."""
        return self.shape.unpack(self.theta)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws every weight and bias from U(−1/√fan_in, 1/√fan_in), as ``torch.nn.Linear`` does; E = 0."""
        d, h = self.shape.dim, self.shape.width
        for name, view in self.weights()._asdict().items():
            if view is None:
                continue
            if name == "energy":
                view.zero_()
            else:
                bound = 1 / math.sqrt(d if name in ("w_in", "b_in", "w_time1", "b_time1") else h)
                view.uniform_(-bound, bound, generator=generator)

    def conditioning(self, t: Tensor, potential: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        """τ(t) and dτ/dt for ``t`` (R,), each (K, R, H), or (1, R, H) of one ``potential``; None where it is 0.

        What a subclass returns may have one row for all R, and all K where one is asked for. Autocast is off in it.
        """
        theta = self.theta if potential is None else self.theta[potential : potential + 1]
        return reference.conditioning(t, theta, self.shape)

    @classmethod
    def from_paper_state_dict(
        cls, state_dict: Mapping[str, Tensor], prefix: str = "MLP_SET.", *, depth: int = 1
    ) -> Self:
        """A bank holding the potentials of a checkpoint of the paper's public code.

        Reads ``{prefix}{k}.layer_x``, ``.layer_time``, ``.layer_time2``, ``.layer_fusion`` and ``.layer_out``, each
        ``.weight`` and ``.bias``, for k = 0, 1, …; ``prefix="FORCE_SET."`` reads the force networks. A file of the
        public trainer holds both under "support_sets".

        Raises:
            KeyError: when the prefix has no potential, a potential lacks a tensor, or has one that is none of these.
            ValueError: when a tensor's shape does not fit the first potential's D and H, or depth is not 1.
        """
        if depth != 1:
            raise ValueError(f"depth: the paper's potentials have one hidden layer, found {depth}")
        first = f"{prefix}0.layer_x.weight"
        if first not in state_dict:
            raise KeyError(f"state_dict has no {first!r}; its keys begin with {sorted(state_dict)[:3]}")
        if state_dict[first].dim() != 2:
            raise ValueError(f"{first}: expected two dimensions, found {tuple(state_dict[first].shape)}")
        width, dim = state_dict[first].shape
        input, hidden = (width, dim), (width, width)
        shapes = {"x": input, "time": input, "time2": hidden, "fusion": hidden, "out": (1, width)}
        own = {name for name in state_dict if name.startswith(prefix)}
        count = len({name[len(prefix) :].split(".")[0] for name in own})
        expected: dict[str, tuple[int, ...]] = {}
        for k in range(count):
            for layer, shape in shapes.items():
                expected |= {f"{prefix}{k}.layer_{layer}.weight": shape, f"{prefix}{k}.layer_{layer}.bias": shape[:1]}
        for name, size in expected.items():
            if name not in state_dict:
                raise KeyError(f"state_dict has no {name!r}")
            if state_dict[name].shape != size:
                found = tuple(state_dict[name].shape)
                raise ValueError(f"{name}: expected {size} (D = {dim}, H = {width}), found {found}")
        if own != expected.keys():
            raise KeyError(f"state_dict has unknown keys under {prefix!r}: {sorted(own - expected.keys())[:3]}")

        bank = cls(count, dim, width, device=state_dict[first].device, dtype=state_dict[first].dtype)
        views = bank.weights()._asdict()
        with torch.no_grad():
            for k in range(count):
                for layer, view in zip(shapes, ("in", "time1", "time2", "hid", "out"), strict=True):
                    for part in ("weight", "bias"):
                        target = views[f"{part[0]}_{view}"][k]
                        target.copy_(state_dict[f"{prefix}{k}.layer_{layer}.{part}"].reshape(target.shape))
        return bank
