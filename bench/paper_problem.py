"""The two models that `bench.paper_step` times: the same weights, the same batch, the same loss, and their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.paper_code import PaperCode, as_ours, nats
from ffrl.data import DIGIT_FORMAT, SequenceSampler, load_digits_5k
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl.noise import Noise
from ffrl.objective import objective, reconstruction_nats
from ffrl.paper_code import flow_terms
from ffrl.presets import Preset
from ffrl_fast.tolerances import relative_error

Call = Callable[[], object]

#: float32 in another order of operations: of each term of the loss, and in norm of each parameter's gradient. One ReLU
#: whose input rounds to the other side of 0 moves the gradient of the decoder's first layer by 1e-3.
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-2


class PaperStep:
    """Both models with the same weights, and one batch."""

    def __init__(self, preset: Preset) -> None:
        generator = torch.Generator().manual_seed(0)
        sampler = SequenceSampler(
            load_digits_5k().train,
            preset.batch_size,
            preset.random_frames,
            preset.random_start,
            generator,
            whole_sequences=True,
            one_transformation=True,
        )
        channels, side, _ = DIGIT_FORMAT.image_shape
        torch.manual_seed(0)
        self.preset = preset
        self.batch = sampler.draw()
        assert self.batch.sequence is not None
        self.sequence, self.k = self.batch.sequence, int(self.batch.index[0])
        self.noise = Noise.draw(preset, DIGIT_FORMAT, preset.batch_size, generator)
        self.paper_code = PaperCode(len(DIGIT_FORMAT), preset.latent_dim, DIGIT_FORMAT.num_steps, channels, side)
        self.ours = FlowModel(preset, DIGIT_FORMAT)
        self.ours.load_state_dict(as_ours(self.paper_code.state_dict()))
        self.adams = self.paper_code.optimizers(preset.learning_rate)
        self.adam = torch.optim.Adam(self.ours.parameters(), lr=preset.learning_rate, fused=True)

    def compare(self) -> dict[str, float]:
        """The largest relative differences. ArithmeticError: losses or gradients are not the same."""
        ours = objective(self.ours, self.batch, self.preset, self.noise)
        theirs = self.paper_code.losses(self.sequence, self.k, self.noise.posterior)
        hj = self.preset.hj_weight * ours.hj + self.preset.initial_weight * ours.initial
        terms = {name: relative_error(getattr(ours, name), getattr(theirs, name)) for name in theirs._fields[:-1]}
        terms["hj"] = relative_error(hj, theirs.hj)
        _require("loss", terms, LOSS_TOLERANCE)

        ours.loss.backward()
        theirs.loss.backward()
        named = self.paper_code.named_parameters()
        exact = as_ours({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named})
        found = {name: p.grad for name, p in self.ours.named_parameters()}
        gradients = {name: relative_error(g, exact[name]) for name, g in found.items() if g is not None}
        if missing := exact.keys() - gradients.keys():
            raise ArithmeticError(f"no gradient of {', '.join(sorted(missing))}")
        _require("gradient", gradients, GRADIENT_TOLERANCE)
        return {"loss_difference": max(terms.values()), "gradient_difference": max(gradients.values())}

    def steps(self) -> dict[str, Call]:
        """One training step."""

        def ours() -> None:
            self.adam.zero_grad(set_to_none=True)
            objective(self.ours, self.batch, self.preset, self.noise).loss.backward()
            self.adam.step()

        def in_bfloat16() -> None:
            self.adam.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                loss = objective(self.ours, self.batch, self.preset, self.noise).loss
            loss.backward()
            self.adam.step()

        def paper_code() -> None:
            for adam in self.adams:
                adam.zero_grad()
            self.paper_code.losses(self.sequence, self.k, self.noise.posterior).loss.backward()
            for adam in self.adams:
                adam.step()

        return {"ours": ours, "paper_code": paper_code, "ours_bf16": in_bfloat16}

    def parts(self) -> dict[str, Call]:
        """ "ours, part" and "paper_code, part": each forward and backward, with respect to parameters and inputs."""
        images, index = self.batch.frames[:, 0], self.batch.index
        with torch.no_grad():
            posterior = self.ours.autoencoder.encode(images)
            z = flow_terms(self.ours, posterior, posterior.sample(self.noise.posterior), index).z
        head = Posterior(*(x.clone().requires_grad_() for x in posterior))
        path, path_bar = z.requires_grad_(), torch.randn_like(z)
        bars = tuple(torch.randn_like(x) for x in posterior)
        ours, paper_code = self.ours, self.paper_code
        codes = ours.autoencoder.encoder, ours.autoencoder.decoder
        dynamics = [p for p in (ours.potentials.theta, ours.forces.theta, ours.prior_scale) if p is not None]
        own = [*paper_code.flow.MLP_SET[self.k].parameters(), *paper_code.flow.FORCE_SET[self.k].parameters()]
        own += [paper_code.prior.sigma[self.k]]

        def our_flow() -> Any:
            terms = flow_terms(ours, head, head.sample(self.noise.posterior), index)
            loss = self.preset.hj_weight * terms.hj + terms.initial + terms.flow_kl + (path_bar * terms.z).sum()
            return torch.autograd.grad(loss, [*head, *dynamics])

        def its_flow() -> Any:
            z0 = head.sample(self.noise.posterior)
            later, hj, flow_kl = paper_code.along(z0, *head, self.k, lambda z: z)
            loss = hj + flow_kl + (path_bar[0] * z0).sum()
            for x, bar in zip(later, path_bar[1:], strict=True):
                loss = loss + (bar * x).sum()
            return torch.autograd.grad(loss, [*head, *own])

        def our_decoder() -> Any:
            loss = reconstruction_nats(ours, path, self.batch, self.preset)
            return torch.autograd.grad(loss, [path, *codes[1].parameters()])

        def its_decoder() -> Any:
            loss = path.new_zeros(())
            for t, z in enumerate(path):
                loss = loss + nats(paper_code.decoder(z), self.sequence[:, t])
            return torch.autograd.grad(loss, [path, *paper_code.decoder.parameters()])

        def its_decoder_at_once() -> Any:
            images = paper_code.decoder(path.flatten(0, 1))
            loss = len(path) * nats(images, self.sequence.transpose(0, 1).flatten(0, 1))
            return torch.autograd.grad(loss, [path, *paper_code.decoder.parameters()])

        return {
            "ours, encoder": lambda: torch.autograd.grad(
                ours.autoencoder.encode(images), [*codes[0].parameters()], bars
            ),
            "paper_code, encoder": lambda: torch.autograd.grad(
                paper_code.encoder(images), [*paper_code.encoder.parameters()], bars
            ),
            "ours, flow": our_flow,
            "paper_code, flow": its_flow,
            "ours, decoder": our_decoder,
            "paper_code, decoder": its_decoder,
            "paper_code, decoder at once": its_decoder_at_once,
            "ours, Adam": self.adam.step,
            "paper_code, Adam": lambda: [adam.step() for adam in self.adams],
        }


def _require(what: str, differences: dict[str, float], tolerance: float) -> None:
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise ArithmeticError(f"{what} {name}: relative difference {difference:.1e}")
