"""The trainer of several roles: turns, micro-batches, averages, checkpoints, and nothing else.

What is learnt is the objective's; where samples come from is the source's. The same loop trains a
teacher of sixty thousand weights on one core and three networks of billions on many GPUs.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import torch
from af_core.errors import AvatarForcingError, ConfigError
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from af_train import checkpoints
from af_train.adapters import AdapterConfig, adapt, merged
from af_train.batches import Source
from af_train.draws import sample_seeds, shared
from af_train.journal import Journal
from af_train.loop import TrainingDivergedError, progress_bar, warm_cosine
from af_train.objectives.contract import Losses, Objective, Turn, drawn_at
from af_train.parallel import Precision, World, products_in, shard, whole, whole_weights


class OutOfMemoryError(AvatarForcingError):
    """The device cannot hold a micro-batch."""


class RoleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one role moves. The defaults are the published ones of the student's stage 2."""

    learning_rate: float = 1.5e-6
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    gradient_clip: float = 10.0
    warmup_updates: int = 0
    final_learning_rate_ratio: float = 1.0
    """Where the cosine ends at the last step; 1 keeps the rate constant."""
    average: float | None = None
    """Decay of the moving average of the weights; None keeps none."""
    average_from: int = 0
    """Updates before the average begins, as a copy."""
    adapter: AdapterConfig | None = None
    """Train an adapter in place of the network's own weights."""

    def __post_init__(self) -> None:
        """Refuse rates that go uphill."""
        if not self.learning_rate >= 0:
            raise ConfigError(f"learning_rate={self.learning_rate:g} must not be below 0.")


class TrainerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to train, and in what pieces."""

    steps: int
    roles: dict[str, RoleConfig]
    batch_size: int = 1
    """Samples of one micro-batch of one process."""
    accumulate: int = 1
    """Micro-batches of one update, for every role."""
    precision: Precision = "float32"
    recompute: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    """Checkpoints that stay."""
    log_every: int = 10
    tensorboard: bool = False
    """Write event files for TensorBoard too, into ``events`` (extra ``af-train[tensorboard]``)."""

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("steps", "batch_size", "accumulate", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")


@attrs.define(eq=False)
class Role:
    """A network that is trained, and what moves it."""

    network: Any
    """The owner of the weights; ``Trainer.networks`` has what is called."""
    config: RoleConfig
    optimiser: torch.optim.AdamW
    updates: int = 0
    average: dict[str, Tensor] | None = None
    """Moving average of the parameters, once it has begun."""

    def follow(self) -> None:
        """Move the average after an update; begin it when its time has come."""
        decay, named = self.config.average, self.moving()
        if decay is None or self.updates < self.config.average_from:
            return
        with torch.no_grad():
            if self.average is None:
                self.average = {name: p.detach().clone() for name, p in named.items()}
            for name, value in self.average.items():
                value.lerp_(named[name], 1 - decay)

    def moving(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained."""
        return {n: p for n, p in self.network.named_parameters() if p.requires_grad}

    def rate(self, progress_steps: int, steps: int) -> float:
        """Return the learning rate: warm-up counts updates, the cosine counts steps."""
        c = self.config
        warm = min(1.0, (self.updates + 1) / max(1, c.warmup_updates))
        factor = warm_cosine(progress_steps, steps, 0, c.final_learning_rate_ratio)
        return c.learning_rate * warm * factor

    def weights(self) -> dict[str, Tensor]:
        """Return what is to be used, whole, on the CPU: averaged if there is an average, merged."""
        state, adapter = self.unmerged(), self.config.adapter
        return state if adapter is None else merged(state, adapter)

    def unmerged(self) -> dict[str, Tensor]:
        """Return the same with an adapter apart, if there is one."""
        averaged = {name: whole(value).cpu() for name, value in (self.average or {}).items()}
        return whole_weights(self.network) | averaged


class Trainer:
    """Several roles on one objective; ``fit`` goes on from the newest checkpoint there is."""

    def __init__(
        self,
        objective: Objective,
        networks: Mapping[str, Any],
        source: Source,
        config: TrainerConfig,
        directory: Path,
        world: World | None = None,
    ) -> None:
        self.objective, self.source, self.config = objective, source, config
        self.directory, self.world = directory, world or World()
        require_roles(objective, networks, config)
        for name in objective.frozen:
            networks[name].eval().requires_grad_(False)
        for name in objective.roles:
            if (adapter := config.roles[name].adapter) is not None:
                adapt(networks[name], adapter, config.seed)
        self.networks = {
            name: shard(network, self.world, config.precision) for name, network in networks.items()
        }
        self.roles = {name: self._role(name, networks[name]) for name in objective.roles}
        self.step = 0

    def _role(self, name: str, network: Any) -> Role:
        config = self.config.roles[name]
        network.train().recompute = self.config.recompute
        optimiser = torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad],
            config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.world.size == 1,
        )
        return Role(network, config, optimiser)

    @property
    def samples(self) -> int:
        """Samples of one update: processes x micro-batches x batch size."""
        return self.world.size * self.config.accumulate * self.config.batch_size

    def fit(self, on_step: Callable[[int], None] = lambda step: None) -> None:
        """Train to the end; ``on_step`` hears of each step that is done."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.resume()
        journal = self._journal()
        record: dict[str, dict[str, Tensor]] = {}
        """The newest update of each role since the last line of the history."""
        began, seen = time.monotonic(), _Pace(time.monotonic())
        with progress_bar() as bar:
            bar.disable = not self.world.leads
            name = self.directory.name
            task = bar.add_task(name, total=self.config.steps, completed=self.step, log="")
            while self.step < self.config.steps:
                turns = self.objective.turns(self.step)
                record |= {role: self._update(role) for role in turns}
                self.step += 1
                seen.add(self.samples * len(turns))
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    spent = {"seconds": round(time.monotonic() - began, 1)}
                    spent |= seen.told(time.monotonic(), self.config.steps - self.step)
                    bar.update(task, log=self._log(journal, record, spent))
                    record = {}
                if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                    self.save()
                bar.advance(task)
                on_step(self.step)
        journal.close()

    def _journal(self) -> Journal:
        return Journal.begin(
            self.directory,
            self.config,
            {n: sum(p.numel() for p in r.network.parameters()) for n, r in self.roles.items()},
            samples=self.samples,
            from_step=self.step,
            tensorboard=self.config.tensorboard,
            leads=self.world.leads,
        )

    def _update(self, name: str) -> dict[str, Tensor]:
        """Let one role take one step on a batch of its own."""
        role = self.roles[name]
        role.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro in range(self.config.accumulate):
            for key, value in self._micro_batch(name, micro).items():
                sums[key] = sums.get(key, 0.0) + value / self.config.accumulate
        parameters = role.optimiser.param_groups[0]["params"]
        self._require_learning(name, sums, parameters)
        norm = whole(nn.utils.clip_grad_norm_(parameters, role.config.gradient_clip))
        if not math.isfinite(float(norm)):
            raise self._diverged(name, sums)
        rate = role.rate(self.step, self.config.steps)
        role.optimiser.param_groups[0]["lr"] = rate
        role.optimiser.step()
        role.optimiser.zero_grad(set_to_none=True)
        role.updates += 1
        role.follow()
        return sums | {"gradient": norm, "rate": torch.tensor(rate)}

    def _micro_batch(self, name: str, micro: int) -> Losses:
        c = self.config
        first = (self.world.rank * c.accumulate + micro) * c.batch_size
        numbers = range(first, first + c.batch_size)
        drawn = drawn_at(self.objective, name, self.step)
        batch = self.source.draw(sample_seeds(c.seed, drawn, name, numbers))
        turn = Turn(name, self.step, shared(c.seed, drawn, name), 1 / c.accumulate)
        try:
            with products_in(self._precision(), self.world.device):
                told = self.objective.backward(turn, self.networks, batch.to(self.world.device))
                return told or {}
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"Step {self.step}: out of memory with {c.batch_size} samples at once ({error}). "
                "Lower batch_size and raise accumulate by the same factor; then set recompute=true."
            ) from error

    def _require_learning(
        self, name: str, losses: Losses, parameters: Sequence[nn.Parameter]
    ) -> None:
        """Refuse an objective that says nothing or leaves no gradient: nothing would be learnt."""
        what = type(self.objective).__name__
        if "loss" not in losses:
            raise ConfigError(f"{what}.backward must return its scalars, 'loss' among them.")
        if all(p.grad is None for p in parameters):
            raise ConfigError(
                f"{what}.backward left no gradient in the {name}: it must call backward() on "
                "turn.share times the loss."
            )

    def _precision(self) -> Precision:
        return self.config.precision if self.world.size == 1 else "float32"  # shards see to it

    def _diverged(self, name: str, losses: Losses) -> TrainingDivergedError:
        last = checkpoints.newest(self.directory)
        kept = f"{last} is whole" if last else "There is no checkpoint yet"
        return TrainingDivergedError(
            f"Step {self.step}: the gradient of the {name} is not finite (loss "
            f"{float(losses['loss'])}); nothing was updated. {kept}. Lower "
            f"roles.{name}.learning_rate, or gradient_clip, and run again."
        )

    def _log(
        self,
        journal: Journal,
        record: Mapping[str, Mapping[str, Tensor]],
        spent: Mapping[str, float],
    ) -> str:
        values = {
            f"{role}/{key}": float(f"{float(value):.6g}")
            for role, losses in record.items()
            for key, value in losses.items()
        }
        journal.write({"step": self.step, **spent, **values})
        return " ".join(f"{k} {v:.4g}" for k, v in values.items() if k.endswith("loss"))

    def save(self) -> Path:
        """Write a checkpoint."""
        about = checkpoints.About(
            self.step, {name: role.updates for name, role in self.roles.items()}, self.samples
        )
        kept = self.config.keep
        return checkpoints.write(self.directory, about, self._state(), self.world, kept)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one; any number of processes may."""
        path = checkpoints.newest(self.directory)
        if path is None:
            return
        about = checkpoints.read_about(path)
        _require_continuation(about, self, path)
        for name, role in self.roles.items():
            role.updates = about.updates[name]
            begun = role.config.average is not None and role.updates >= role.config.average_from
            if begun and role.updates:
                role.average = {n: p.detach().clone() for n, p in role.moving().items()}
        state = self._state()
        checkpoints.read(path, state, self.world)
        for name, role in self.roles.items():
            part = state[name]
            set_state_dict(
                role.network,
                role.optimiser,
                model_state_dict=part["network"],
                optim_state_dict=part["optimiser"],
                options=_options(role),
            )
        self.step = about.step

    def _state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint, as they lie in this process."""
        state = {}
        for name, role in self.roles.items():
            network, optimiser = get_state_dict(
                role.network, role.optimiser, options=_options(role)
            )
            state[name] = {"network": network, "optimiser": optimiser}
            if role.average is not None:
                state[name]["average"] = role.average
        return state


def _options(role: Role) -> StateDictOptions:
    """Leave what an adapter stands on out of checkpoints: the stage began with it."""
    adapted = role.config.adapter is not None
    return StateDictOptions(ignore_frozen_params=adapted, strict=not adapted)


@attrs.define
class _Pace:
    """Samples and steps since the last line of the history."""

    since: float
    samples: int = 0
    steps: int = 0

    def add(self, samples: int) -> None:
        self.samples, self.steps = self.samples + samples, self.steps + 1

    def told(self, now: float, steps_left: int) -> dict[str, float]:
        """Return samples a second, of all roles together, and seconds to the end; begin anew."""
        spent = max(now - self.since, 1e-9)
        told = {"samples_per_s": self.samples / spent, "eta_s": steps_left * spent / self.steps}
        self.since, self.samples, self.steps = now, 0, 0
        return {name: float(f"{value:.4g}") for name, value in told.items()}


def require_roles(objective: Objective, networks: Collection[str], config: TrainerConfig) -> None:
    """Raise ``ConfigError`` if an objective asks for networks or settings that are not there."""
    needed = {*objective.roles, *objective.frozen}
    if missing := sorted(needed - set(networks)):
        raise ConfigError(
            f"The objective {type(objective).__name__} needs networks for {', '.join(missing)}; "
            f"this stage has {', '.join(networks)}."
        )
    if missing := sorted(set(objective.roles) - set(config.roles)):
        raise ConfigError(
            f"The objective {type(objective).__name__} trains {', '.join(missing)}, and "
            f"trainer.roles says only how {', '.join(config.roles)} moves: it is for another "
            "stage, or add the role (learning_rate, ...)."
        )


def _require_continuation(about: checkpoints.About, trainer: Trainer, path: Path) -> None:
    if about.samples != trainer.samples:
        raise ConfigError(
            f"{path} was trained with {about.samples} samples an update; {trainer.world.size} "
            f"processes x {trainer.config.accumulate} micro-batches x {trainer.config.batch_size} "
            f"make {trainer.samples}. Set accumulate or batch_size so that it is the same."
        )
    if about.updates.keys() != trainer.roles.keys():
        raise ConfigError(
            f"{path} trained {', '.join(about.updates)}, not {', '.join(trainer.roles)}: "
            "name another directory."
        )
