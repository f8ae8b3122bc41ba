"""The training loop."""

import time
from dataclasses import fields
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ffrl.data import SequenceSampler
from ffrl.errors import UserError
from ffrl.models import FlowModel
from ffrl.objective import Objective, supervised_objective
from ffrl.presets import Preset
from ffrl.training.average import MovingAverage
from ffrl.training.budget import Budget, learning_rate
from ffrl.training.checkpoint import Checkpoint, has_checkpoint, load_checkpoint, save_checkpoint
from ffrl.training.interruption import Interruption
from ffrl.training.log import TrainingLog
from ffrl.training.progress import TrainingProgress

LOG_EVERY_ITERATIONS = 50
CHECKPOINT_EVERY_SECONDS = 60.0


class Trainer:
    """Trains a FlowModel on sequences of digits.

    grey: uint8 (N, 28, 28), the digits to train on. run: the folder for log.csv and checkpoints; a checkpoint in it is
    continued exactly: under a budget of iterations an interrupted and resumed run ends with the same bits as one that
    was not interrupted. seed decides the initial weights, the batches and the noise.
    """

    def __init__(self, preset: Preset, budget: Budget, grey: Tensor, run: Path, seed: int) -> None:
        self.preset = preset
        self.budget = budget
        self.run = run
        # Forked, so that the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = FlowModel(preset)
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = SequenceSampler(
            grey, preset.batch_size, preset.random_frames, preset.random_start, self.generator
        )
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=preset.learning_rate,
            betas=(preset.adam_beta1, preset.adam_beta2),
            fused=True,
        )
        self.average = MovingAverage(self.model, preset.ema_decay, preset.ema_every)
        self.iteration = 0
        self.seconds = 0.0
        if has_checkpoint(run):
            self._restore(load_checkpoint(run))

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.budget.fraction(self.iteration, self.seconds) >= 1

    def train(self, console: Console, *, stop_at: int | None = None, tensorboard: bool = False) -> None:
        """Train until the budget is used, SIGINT or SIGTERM arrives, or `stop_at` iterations are done; then save.

        UserError: the loss is no longer finite; the last checkpoint is left as it is, to resume from.
        """
        last_save = time.monotonic()
        with (
            TrainingLog(self.run, self.iteration, tensorboard) as log,
            TrainingProgress(console) as progress,
            Interruption() as interruption,
        ):
            while not (self.finished or interruption.requested or self.iteration == stop_at):
                began = time.perf_counter()
                objective = self.step()
                self.seconds += time.perf_counter() - began
                if self.iteration % LOG_EVERY_ITERATIONS == 0 or self.finished:
                    self._report(objective, log, progress)
                if time.monotonic() - last_save > CHECKPOINT_EVERY_SECONDS:
                    self.save()
                    last_save = time.monotonic()
        self.save()

    def step(self) -> Objective:
        """One iteration: a batch, the objective, its gradients, Adam, the moving average. UserError: see `train`."""
        fraction = self.budget.fraction(self.iteration, self.seconds)
        rate = learning_rate(self.preset.learning_rate, fraction, self.iteration, self.preset.warmup_iterations)
        self.optimizer.param_groups[0]["lr"] = rate
        objective = supervised_objective(self.model, self.sampler.draw(), self.preset, self.generator)
        if not torch.isfinite(objective.loss):
            found = f"found {objective.loss.item()}; a lower learning_rate may help"
            raise UserError(f"iteration {self.iteration + 1}: expected a finite loss, {found}")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective.loss)
        self.optimizer.step()
        self.iteration += 1
        self.average.update(self.model, self.iteration)
        return objective

    def save(self) -> None:
        """Write the whole state as the run's checkpoint."""
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer_tensors(),
            "sampler": self.sampler.state_dict(),
        }
        tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
        save_checkpoint(self.run, Checkpoint(tensors, self.iteration, self.seconds))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.part("model"))
        self.average.load_state_dict(checkpoint.part("average"))
        self.sampler.load_state_dict(checkpoint.part("sampler"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.part("optimizer").items():
            number, key = name.split("/")
            state.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.iteration, self.seconds = checkpoint.iteration, checkpoint.seconds

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{number}/{key}": value for number, values in state.items() for key, value in values.items()}

    def _report(self, objective: Objective, log: TrainingLog, progress: TrainingProgress) -> None:
        values = {field.name: getattr(objective, field.name).item() for field in fields(objective)}
        rate = self.optimizer.param_groups[0]["lr"]
        log.write({"iteration": self.iteration, "seconds": self.seconds, "learning_rate": rate, **values})
        progress.update(
            self.budget.fraction(self.iteration, self.seconds),
            f"iteration {self.iteration}  loss {values['loss']:.0f}  KL {values['kl']:.1f}  HJ {values['hj']:.4f}",
        )
