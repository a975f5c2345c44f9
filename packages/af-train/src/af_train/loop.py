"""The training loop: one function that any recipe can run, stop and resume."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from af_core.errors import AvatarForcingError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from af_train.muon import Muon

_CHECKPOINT = "checkpoint.pt"
_HISTORY = "history.jsonl"

Losses = Mapping[str, Tensor]


class FitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how fast to train."""

    steps: int
    optimiser: Literal["adamw", "muon"] = "adamw"
    edges: tuple[str, ...] = ()
    """Prefixes of parameters that Muon leaves to Adam: first and last layers."""
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    final_learning_rate_ratio: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    average: float = 0.998
    """Decay of the exponential moving average of the weights, which is what gets shipped."""
    save_every: int = 100
    log_every: int = 50


class TrainingDivergedError(AvatarForcingError):
    """A loss or gradient stopped being a number."""


class Averages:
    """Exponential moving averages of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module, faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)


def learning_rate(config: FitConfig, step: int) -> float:
    """Return the rate of a step, see ``warm_cosine``."""
    low = config.final_learning_rate_ratio
    return config.learning_rate * warm_cosine(step, config.steps, config.warmup_steps, low)


def warm_cosine(step: int, steps: int, warmup_steps: int, low: float) -> float:
    """Return a factor that rises linearly to 1 and falls by a cosine to ``low``."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return warm * (low + (1 - low) * cosine)


def fit(
    module: nn.Module,
    losses_at: Callable[[int], Losses],
    config: FitConfig,
    directory: Path,
    on_save: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Minimise ``losses_at(step)["loss"]`` over the module's trainable parameters.

    A checkpoint in ``directory`` is resumed, so the same call goes on where a killed one
    stopped. ``losses_at`` must take its randomness from the step it is given. Returns the
    averaged weights; ``on_save(step, weights)`` sees them at each checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = _optimiser(module, config)
    averages = Averages(module, config.average)
    start = _resume(directory, module, optimiser, averages)
    with progress_bar() as bar:
        task = bar.add_task(directory.name, total=config.steps, completed=start, log="")
        began = time.monotonic()
        for step in range(start, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            losses = losses_at(step)
            _descend(losses["loss"], optimiser, parameters, config.gradient_clip, step)
            averages.update(module, step)
            done = step + 1
            if done % config.log_every == 0:
                record = {k: round(float(v.detach()), 5) for k, v in losses.items()}
                record |= {"step": done, "seconds": round(time.monotonic() - began, 1)}
                append_record(directory, record)
                bar.update(task, log=f"loss {record['loss']:.4f}")
            if done % config.save_every == 0 or done == config.steps:
                _save(directory, done, module, optimiser, averages)
                if on_save is not None:
                    on_save(done, averages.values)
            bar.advance(task)
    return averages.values


def _descend(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    gradient_clip: float,
    step: int,
) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, gradient_clip)
    if not math.isfinite(float(norm)):
        raise TrainingDivergedError(
            f"The gradient of step {step} is not finite (loss {float(loss.detach())}). The last "
            "checkpoint is whole; go on from it with a lower learning_rate."
        )
    optimiser.step()


def progress_bar(console: Console | None = None) -> Progress:
    """Return the bar of a run, on standard error: done, how long yet, the newest loss."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[log]}"),
        console=console or Console(stderr=True),
    )


def _optimiser(module: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if config.optimiser == "muon":
        hidden = [n for n, p in named.items() if p.ndim >= 2 and not n.startswith(config.edges)]
        return Muon(
            [named[name] for name in hidden],
            [p for name, p in named.items() if name not in set(hidden)],
            config.learning_rate,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(
        named.values(), config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


def _resume(
    directory: Path, module: nn.Module, optimiser: torch.optim.Optimizer, averages: Averages
) -> int:
    path = directory / _CHECKPOINT
    if not path.exists():
        return 0
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    module.load_state_dict(saved["module"])
    optimiser.load_state_dict(saved["optimiser"])
    averages.values = saved["averages"]
    return int(saved["step"])


def _save(
    directory: Path,
    step: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    averages: Averages,
) -> None:
    saved = {
        "step": step,
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "averages": averages.values,
    }
    partial = directory / (_CHECKPOINT + ".partial")
    torch.save(saved, partial)
    partial.replace(directory / _CHECKPOINT)


def append_record(directory: Path, record: dict[str, Any]) -> None:
    """Add a line to the history of a run."""
    with (directory / _HISTORY).open("a") as file:
        file.write(json.dumps(record) + "\n")
