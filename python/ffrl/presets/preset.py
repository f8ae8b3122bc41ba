"""Every number that decides a training run, in one frozen dataclass."""

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ffrl.data.dataset import Dataset
from ffrl.errors import UserError
from ffrl.kinds import require_kinds

CONV_SIDES = {"conv": (4, 64), "conv_large": (16, 128)}
"""By how much the strided convolutions of an autoencoder shrink an image, and the largest side that it is for."""
OWN_SETTINGS: dict[str, tuple[str, ...]] = {
    "factor_vae": ("tc_weight", "discriminator_width", "discriminator_learning_rate"),
    "slow_vae": ("transition_weight", "transition_rate"),
    "topographic_vae": ("capsule_length",),
    "potential_traversal": ("wave_weight",),
}
"""The settings that one system alone looks at."""
LARGEST_SIZE = 1_000_000
"""Of a width, a depth or a batch: more is a slip of the finger, and no memory holds it."""

_SIZES = (
    "latent_dim", "conv_width", "potential_width", "potential_depth", "density_directions", "classifier_width",
    "discriminator_width", "capsule_length", "substeps", "batch_size", "random_frames",
)  # fmt: skip
_WEIGHTS = (
    "beta", "hj_weight", "initial_weight", "flow_beta", "balance_weight", "tc_weight", "transition_weight",
    "wave_weight",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A training configuration. The defaults are the quickstart: D 32, separable potentials.

    system: what is trained, by the names of `ffrl.systems.SYSTEMS`; "flow" is the one that this preset's flows, their
        equation and the supervision belong to. Another does not look at their numbers.
    autoencoder: "mlp" with the widths `hidden`, or the paper's convolutions, `conv_width` their s: "conv" for images of
        up to 64 pixels, "conv_large" for 128.
    likelihood: of an image, "bernoulli" or "normal", N(x; decode(z), 1).
    prior: p(z_t) of the flow KL: "diffusion" N(0, (1 + 2 D_k t) I), D_k learned, or "standard" N(0, I); convention
        "paper_code" has its own.
    substeps: how many Euler steps make a step of the flow.
    flow: "potential" z ← z + Δ∇u^k(z, t), or "velocity" z ← z + Δ v^k(z), v^k a network of one hidden layer of
        `potential_width` that need not be a gradient: no equation, no clock, no density.
    time_embedding: of the potentials, "separable" u = S(z) − E·t, "sinusoidal" u(z, t) (the paper's), "none" u(z).
    random_clock: in training the clock of each batch shows a random time in [0, T) at z_0, so that a flow does not know
        when it started; only for "sinusoidal". Then no time is the initial one, and there is no initial condition.
    hj_weight: of the mean squared Hamilton–Jacobi residual; 0 drops the equation, and the forces with it.
    initial_weight: weight of mean‖∇u(z_0, 0)‖²; only for "sinusoidal" (it would stop the flow of the others).
    density: how log|det(I + ∇²u)| of the flow KL is computed; "none" leaves that KL out. "hutchinson": estimated from
        `density_directions` random directions a step; "row_sum": what the paper's public code takes in its place.
    flow_beta: weight of the flow KL.
    collocation_points: at how many random points and times between its steps each row is also asked for the
        Hamilton–Jacobi residual, which a clocked potential otherwise does not meet there; a point counts as much as a
        step.
    convention: "per_sample", the equations row by row; or "paper_code", what the paper's public code computes in place
        of the residual, the initial condition and the flow KL (`ffrl.paper_code`), with one k a batch. There
        `hj_weight` T makes their sum over the steps, and density "row_sum" is their flow KL.
    random_start: probability that each other factor of a digit starts in a random state; images by factors always do.
    tc_weight: of system "factor_vae", γ of its total correlation. discriminator_width, discriminator_learning_rate: of
        its network of six layers; the paper's are 1000 and 1e-4, and γ 10 to 40.
    transition_weight: of system "slow_vae", γ of KL(q(z_{t+1}) ‖ Laplace(z_t, 1/λ)); transition_rate: its λ.
    capsule_length: of system "topographic_vae", a divisor of latent_dim; best at least T + 1.
    wave_weight: of system "potential_traversal", of its wave equation and of its initial condition.
    schedule: of the learning rate after the warm-up: "cosine", to zero at the end of the budget, or "constant".
    ema_decay: per iteration, less in the first few thousand (`ffrl.training.average`); the average is updated every
        `ema_every` iterations, and before the first time it is the weights themselves.
    supervision: "full": k of each sequence is known. "weak": it is inferred from the whole sequence and never shown;
        one sample of q(k|x) by straight-through Gumbel-softmax moves each row, its temperature going from
        `temperature_start` to `temperature_end` over the budget.
    balance_weight: weight of KL(batch mean of q(k|x) ‖ uniform), without which q collapses to one k; weak only.
    classifier_width: of the network q(k|x).
    iterations: the default budget; the command line may give minutes instead.
    """

    system: Literal["flow", "vae", "factor_vae", "slow_vae", "topographic_vae", "potential_traversal"] = "flow"
    autoencoder: Literal["mlp", "conv", "conv_large"] = "mlp"
    latent_dim: int = 32
    hidden: tuple[int, ...] = (512, 256)
    conv_width: int = 32
    likelihood: Literal["bernoulli", "normal"] = "bernoulli"
    flow: Literal["potential", "velocity"] = "potential"
    potential_width: int = 64
    potential_depth: int = 1
    potential_output: Literal["tanh", "identity"] = "identity"
    time_embedding: Literal["separable", "sinusoidal", "none"] = "separable"
    random_clock: bool = False
    substeps: int = 2

    batch_size: int = 48
    random_frames: int = 3
    random_start: float = 0.5
    beta: float = 1.0
    hj_weight: float = 200.0
    initial_weight: float = 0.0
    collocation_points: int = 0
    density: Literal["none", "exact", "hutchinson", "row_sum"] = "none"
    density_directions: int = 1
    flow_beta: float = 1.0
    convention: Literal["per_sample", "paper_code"] = "per_sample"
    prior: Literal["diffusion", "standard"] = "diffusion"

    supervision: Literal["full", "weak"] = "full"
    balance_weight: float = 300.0
    temperature_start: float = 1.0
    temperature_end: float = 0.5
    classifier_width: int = 128

    tc_weight: float = 10.0
    discriminator_width: int = 1000
    discriminator_learning_rate: float = 1e-4

    transition_weight: float = 10.0
    transition_rate: float = 6.0
    capsule_length: int = 16
    wave_weight: float = 1.0

    learning_rate: float = 2e-3
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    warmup_iterations: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    ema_decay: float = 0.998
    ema_every: int = 10
    iterations: int = 8_000

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if kind is float:
                self._require(name, math.isfinite(getattr(self, name)), "a finite number")
        for name in _SIZES:
            self._require(name, getattr(self, name) >= 1, "at least 1")
            self._require(name, getattr(self, name) <= LARGEST_SIZE, f"at most {LARGEST_SIZE:,}")
        for name in ("ema_every", "iterations"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_iterations", *_WEIGHTS):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("collocation_points", self.collocation_points >= 0, "at least 0")
        self._require("collocation_points", self.collocation_points <= LARGEST_SIZE, f"at most {LARGEST_SIZE:,}")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("temperature_start", "temperature_end"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("random_start", 0 <= self.random_start <= 1, "a probability")
        for name in ("learning_rate", "discriminator_learning_rate", "transition_rate"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("hidden", len(self.hidden) > 0 and min(self.hidden) >= 1, "widths of at least 1")
        self._require("hidden", max(self.hidden) <= LARGEST_SIZE, f"widths of at most {LARGEST_SIZE:,}")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                self._require(name, getattr(self, name) in get_args(kind), " or ".join(get_args(kind)))
        self._require_sense()

    def _require_sense(self) -> None:
        """UserError: settings that contradict each other."""
        if self.system != "flow":
            for name, only in (("supervision", "full"), ("convention", "per_sample"), ("flow", "potential")):
                self._require(name, getattr(self, name) == only, f"{only} with system {self.system}")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for system, names in OWN_SETTINGS.items():
            for name in names:
                fits = self.system == system or getattr(self, name) == defaults[name]
                self._require(name, fits, f"{defaults[name]} unless system is {system}")
        if self.system == "topographic_vae":
            fits = self.latent_dim % self.capsule_length == 0
            self._require("capsule_length", fits, f"a divisor of latent_dim {self.latent_dim}")
        clocked, velocity = self.time_embedding == "sinusoidal", self.flow == "velocity"
        self._require("time_embedding", not (velocity and clocked), "no clock with flow velocity")
        self._require(
            "density", not velocity or self.density == "none", "none with flow velocity, which has no Hessian"
        )
        self._require("random_clock", clocked or not self.random_clock, "false unless time_embedding is sinusoidal")
        self._require(
            "initial_weight",
            self.initial_weight == 0 or clocked,
            "0 unless time_embedding is sinusoidal (it would stop a flow without a clock)",
        )
        self._require(
            "initial_weight",
            self.initial_weight == 0 or not self.random_clock,
            "0 with random_clock, under which no time is the initial one",
        )
        self._require(
            "collocation_points",
            self.collocation_points == 0 or self.has_equation,
            "0 without an equation (flow velocity, or hj_weight 0)",
        )
        if self.convention == "paper_code":
            self._require(
                "convention", self.has_equation, "per_sample without an equation (flow velocity, or hj_weight 0)"
            )
            for name, value in (
                ("supervision", "full"), ("substeps", 1), ("collocation_points", 0), ("random_clock", False),
            ):  # fmt: skip
                self._require(name, getattr(self, name) == value, f"{value} with convention paper_code")
            self._require("density", self.density in ("none", "row_sum"), "none or row_sum with convention paper_code")

    @property
    def has_equation(self) -> bool:
        """Whether training asks for the Hamilton–Jacobi equation."""
        return self.flow == "potential" and self.hj_weight > 0

    def require_fit(self, data: Dataset) -> None:
        """UserError unless this preset can train on `data`: K, T and the size of the images."""
        count, steps = len(data.transformations), data.num_steps
        _, height, width = data.image_shape
        self._require(
            "batch_size", self.batch_size >= count, f"at least {count}, a row for each transformation of {data.name}"
        )
        self._require("random_frames", self.random_frames <= steps, f"at most {steps}, the steps of {data.name}")
        if self.autoencoder == "mlp":
            return
        shrinks, largest = CONV_SIDES[self.autoencoder]
        if height != width or width % shrinks or width > largest:
            raise UserError(
                f"autoencoder {self.autoencoder}: expected square images whose side is a multiple of {shrinks}, "
                f"at most {largest}, found {height}x{width} in {data.name}"
            )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preset":
        """The preset that `to_dict` described. UserError: unknown or missing names, or values of another type."""
        require_kinds(cls, values)
        return cls(**{**values, "hidden": tuple(values["hidden"])})

    def override(self, assignments: list[str]) -> "Preset":
        """A preset with settings replaced by "name=value" strings; tuples are written 512,256."""
        types = get_type_hints(type(self))
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals or name not in types:
                raise UserError(f"--set: expected NAME=VALUE with NAME in {', '.join(types)}; found {assignment!r}")
            changes[name] = _parse(name, text, types[name])
        return replace(self, **changes)


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if get_origin(kind) is Literal:
            return text
        if get_origin(kind) is tuple:
            return tuple(get_args(kind)[0](part) for part in text.split(","))
        return kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "numbers, like 512,256")
        raise UserError(f"--set {name}: expected {expected}, found {text!r}") from None
