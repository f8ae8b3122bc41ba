"""The training loop."""

import contextlib
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from ffrl.data import Dataset, SequenceBatch
from ffrl.errors import UserError
from ffrl.presets import LARGEST_SIZE, Preset
from ffrl.systems import System, Terms, build
from ffrl.systems.system import Noise
from ffrl.training.average import MovingAverage
from ffrl.training.budget import Budget, learning_rate
from ffrl.training.checkpoint import Checkpoint, has_checkpoint, load_checkpoint, save_checkpoint
from ffrl.training.interruption import Interruption
from ffrl.training.log import TrainingLog
from ffrl.training.processes import connect
from ffrl.training.progress import TrainingProgress

LOG_EVERY_ITERATIONS = 50
CHECKPOINT_EVERY_SECONDS = 60.0


class _Step(nn.Module):
    """The objective as a module's forward, which is what Fabric runs on several devices and in mixed precision."""

    def __init__(self, model: System) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SequenceBatch, noise: Noise, temperature: float) -> Terms:
        return self.model.objective(batch, noise, temperature)


class Trainer:
    """Trains the system of a preset on the sequences of a data set.

    run: the folder for log.csv and checkpoints; a checkpoint in it is
    continued exactly: under a budget of iterations an interrupted and resumed run ends with the same bits as one that
    was not interrupted. seed decides the initial weights, the batches and the noise.

    fabric: where it computes, from `connect`; default: this process alone, on the CPU. accumulate: the gradients of so
    many batches make one step. The step's batch has batch_size · accumulate · processes rows, drawn by every process
    alike, and each process renders and computes its share: the losses do not depend on who computes which rows.
    """

    def __init__(
        self,
        preset: Preset,
        budget: Budget,
        data: Dataset,
        run: Path,
        seed: int,
        fabric: Fabric | None = None,
        accumulate: int = 1,
        checkpoint_every: float = CHECKPOINT_EVERY_SECONDS,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1, found {accumulate}")
        preset.require_fit(data)
        self.preset = preset
        self.budget = budget
        self.run = run
        self.fabric = connect() if fabric is None else fabric
        self.accumulate = accumulate
        self.checkpoint_every = checkpoint_every
        if (rows := preset.batch_size * self._shares) > LARGEST_SIZE:
            raise UserError(f"accumulate: expected at most {LARGEST_SIZE:,} rows a step, found {rows:,}")
        # Forked, so that the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(preset, data.format)
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = data.sampler(
            preset.batch_size * self._shares,
            preset.random_frames,
            preset.random_start,
            self.generator,
            **self.model.frame_choice._asdict(),
        )
        self.model.to(self.fabric.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameter_groups(),
            lr=preset.learning_rate,
            betas=(preset.adam_beta1, preset.adam_beta2),
            fused=True,
        )
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = MovingAverage(self.model, preset.ema_decay, preset.ema_every)
        self.iteration = 0
        self.seconds = 0.0
        if has_checkpoint(run):
            self._restore(load_checkpoint(run))
        self._objective, self._fabric_optimizer = self.fabric.setup(_Step(self.model), self.optimizer)

    @property
    def _shares(self) -> int:
        """Into how many parts a step's batch is divided."""
        return self.accumulate * self.fabric.world_size

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.budget.fraction(self.iteration, self.seconds) >= 1

    def train(self, console: Console, *, stop_at: int | None = None, tensorboard: bool = False) -> None:
        """Train until the budget is used, SIGINT or SIGTERM arrives, or `stop_at` iterations are done; then save.

        UserError: the loss is no longer finite; the last checkpoint is left as it is, to resume from.
        """
        last_save = time.monotonic()
        with contextlib.ExitStack() as stack:
            log = progress = None
            if self.fabric.is_global_zero:
                log = stack.enter_context(TrainingLog(self.run, self.model.terms._fields, self.iteration, tensorboard))
                progress = stack.enter_context(TrainingProgress(console))
            interruption = stack.enter_context(Interruption())
            stop = False
            while not (self.finished or stop or self.iteration == stop_at):
                began = self.budget.clock()
                terms = self.step()
                self.seconds += self.budget.clock() - began
                save = time.monotonic() - last_save > self.checkpoint_every
                # All processes stop and save after the same iteration, with the same clock.
                self.seconds, stop, save = self._agree(interruption.requested, save)
                due = self.iteration % LOG_EVERY_ITERATIONS == 0 or self.finished
                if due and log is not None and progress is not None:
                    self._report(terms, log, progress)
                if save:
                    self.save()
                    last_save = time.monotonic()
        self.save()

    def _agree(self, stop: bool, save: bool) -> tuple[float, bool, bool]:
        """The mean of the processes' seconds, and whether any of them wants to stop or to save."""
        if self.fabric.world_size == 1:
            return self.seconds, stop, save
        mine = torch.tensor([self.seconds, float(stop), float(save)], dtype=torch.float64, device=self.fabric.device)
        seconds, stops, saves = self._mean(mine).tolist()
        return seconds, stops > 0, saves > 0

    def _mean(self, x: Tensor) -> Tensor:
        """Over the processes."""
        mean = self.fabric.all_reduce(x, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def step(self) -> Terms:
        """One iteration: a batch, the objective, its gradients, Adam, the moving average. UserError: see `train`.

        Returns the mean over the whole batch.
        """
        fraction = self.budget.fraction(self.iteration, self.seconds)
        warmup, schedule = self.preset.warmup_iterations, self.preset.schedule
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate(rate, fraction, self.iteration, warmup, schedule)
        start, end = self.preset.temperature_start, self.preset.temperature_end
        temperature = start + (end - start) * fraction
        self._fabric_optimizer.zero_grad(set_to_none=True)
        plan = self.sampler.plan()
        noise = self.model.draw_noise(len(plan.index), self.generator)
        found = []
        for part in range(self.accumulate):
            number = self.fabric.global_rank * self.accumulate + part
            batch = self.sampler.render(plan.share(number, self._shares)).to(self.fabric.device)
            own = noise.share(number, self._shares).to(self.fabric.device)
            with self.fabric.no_backward_sync(self._objective, enabled=part + 1 < self.accumulate):
                terms: Terms = self._objective(batch, own, temperature)
                self.fabric.backward(terms.loss / self.accumulate)
            found.append(torch.stack(tuple(terms)).detach())
        values = found[0] if len(found) == 1 else torch.stack(found).mean(0)
        values = values if self.fabric.world_size == 1 else self._mean(values)
        mean: Terms = self.model.terms(*values)
        if not torch.isfinite(mean.loss):
            raise UserError(
                f"iteration {self.iteration + 1}: expected a finite loss, found {mean.loss.item()}; "
                "a lower learning_rate in a new run may help"
            )
        self._fabric_optimizer.step()
        self.iteration += 1
        self.average.update(self.model, self.iteration)
        return mean

    def save(self) -> None:
        """Write the whole state as the run's checkpoint; the first of several processes does."""
        if self.fabric.is_global_zero:
            self._save()
        self.fabric.barrier()

    def _save(self) -> None:
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer_tensors(),
            "sampler": self.sampler.state_dict(),
        }
        tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
        save_checkpoint(self.run, Checkpoint(tensors, self.iteration, self.seconds))

    def _restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.require_shapes(self.run, "model", self.model.state_dict())
        checkpoint.require_shapes(self.run, "average", self.average.state_dict())
        self.model.load_state_dict(checkpoint.part("model"))
        self.average.load_state_dict(checkpoint.part("average"))
        try:
            self.sampler.load_state_dict(checkpoint.part("sampler"))
            self._restore_optimizer(checkpoint.part("optimizer"))
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.run}: expected a checkpoint of the run's settings, found other states of the sampler or the "
                f"optimizer ({error})"
            ) from None
        self.iteration, self.seconds = checkpoint.iteration, checkpoint.seconds

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, key = name.split("/")
            parameter = parameters[int(number)]
            # Fused Adam does not look at the shapes of its moments.
            if value.shape != (torch.Size() if key == "step" else parameter.shape):
                raise ValueError(f"{name}: found shape {tuple(value.shape)}")
            state.setdefault(int(number), {})[key] = _laid_out_as(parameter, value)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{number}/{key}": value for number, values in state.items() for key, value in values.items()}

    def _report(self, terms: Terms, log: TrainingLog, progress: TrainingProgress) -> None:
        values = {name: value.item() for name, value in terms._asdict().items()}
        rate = self.optimizer.param_groups[0]["lr"]
        log.write({"iteration": self.iteration, "seconds": self.seconds, "learning_rate": rate, **values})
        progress.update(
            self.budget.fraction(self.iteration, self.seconds),
            f"iteration {self.iteration}  {self.model.headline(values)}",
        )


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of `parameter`, where it has its shape: fused Adam takes them for granted, and files do
    not have them.
    """
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
