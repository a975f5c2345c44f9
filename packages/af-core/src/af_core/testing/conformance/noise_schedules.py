"""Checks for noise schedules."""

from collections.abc import Callable
from typing import Any

import torch

from af_core.testing.conformance.common import close, noise, same

Make = Callable[[], Any]


def ladders(schedule: Any, rungs: tuple[int, ...]) -> list[torch.Tensor]:
    """Return the ladders of these lengths."""
    return [schedule.ladder(num_rungs) for num_rungs in rungs]


def has_a_ladder_that_rises_to_one(make: Make, *, rungs: tuple[int, ...] = (1, 2, 4, 7)) -> None:
    """Levels rise strictly from rung 0, above zero, to 1.0 at the top."""
    for count, sigmas in zip(rungs, ladders(make(), rungs), strict=True):
        assert sigmas.shape == (count,), f"ladder({count}) has shape {list(sigmas.shape)}"
        assert sigmas.dtype == torch.float32, f"ladder is {sigmas.dtype}, not torch.float32"
        assert bool((sigmas.diff() > 0).all()), f"ladder({count}) does not rise: {sigmas.tolist()}"
        assert float(sigmas[0]) > 0, f"rung 0 of ladder({count}) is not above zero: {sigmas[0]}"
        assert float(sigmas[-1]) == 1.0, f"the top of ladder({count}) is {sigmas[-1]}, not 1.0"


def has_timesteps_that_rise_with_noise(
    make: Make, *, rungs: tuple[int, ...] = (1, 2, 4, 7)
) -> None:
    """Timesteps rise strictly with the level and stay in [0, 1000]."""
    schedule = make()
    for sigmas in ladders(schedule, rungs):
        times = schedule.timesteps(sigmas)
        assert times.shape == sigmas.shape, f"timesteps have shape {list(times.shape)}"
        assert bool((times.diff() > 0).all()), f"timesteps do not rise: {times.tolist()}"
        inside = bool((times >= 0).all()) and bool((times <= 1000).all())
        assert inside, f"timesteps leave [0, 1000]: {times.tolist()}"


def is_pure_noise_at_the_top(make: Make) -> None:
    """At sigma 1 nothing of the clean latents is left."""
    clean, eps = noise(2, 3, 4, seed=1), noise(2, 3, 4, seed=2)
    close(make().add_noise(clean, eps, torch.ones(1)), eps, "latents at sigma 1")


def finds_the_clean_back(make: Make, *, rungs: tuple[int, ...] = (1, 2, 4, 7)) -> None:
    """A perfect prediction, of the clean latents or of the velocity, gives the clean latents."""
    schedule = make()
    clean, eps = noise(1, 2, 3, 4, seed=1), noise(1, 2, 3, 4, seed=2)
    for sigma in torch.cat(ladders(schedule, rungs)):
        noisy = schedule.add_noise(clean, eps, sigma)
        errors = [
            float((schedule.to_clean(perfect, noisy, sigma) - clean).abs().max())
            for perfect in (clean, eps - clean, eps)
        ]
        assert min(errors) <= 1e-4, f"sigma {float(sigma):.3g}: off by {min(errors):g} at best"


def treats_levels_of_a_window_one_by_one(make: Make) -> None:
    """Levels that broadcast over slots give what each slot gives alone, the same each time."""
    schedule = make()
    clean, eps = noise(1, 3, 2, 4, seed=1), noise(1, 3, 2, 4, seed=2)
    sigmas = schedule.ladder(3)
    together = schedule.add_noise(clean, eps, sigmas.view(1, 3, 1, 1))
    same(schedule.add_noise(clean, eps, sigmas.view(1, 3, 1, 1)), together, "the second call")
    for slot in range(3):
        alone = schedule.add_noise(clean[:, slot], eps[:, slot], sigmas[slot])
        close(together[:, slot], alone, f"slot {slot}")


CHECKS = (
    has_a_ladder_that_rises_to_one,
    has_timesteps_that_rise_with_noise,
    is_pure_noise_at_the_top,
    finds_the_clean_back,
    treats_levels_of_a_window_one_by_one,
)
