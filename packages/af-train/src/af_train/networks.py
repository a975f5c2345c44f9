"""What training asks of a network: one differentiable pass, and what its output means.

Timesteps are 1000 sigma, computed; teacher, critic and student share one time axis.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import torch
from af_core.stages.denoiser import Plan
from torch import Tensor

from af_train.levels import NUM_TIMESTEPS, per_frame


class Trainable(Protocol):
    """A denoiser with the face of training, such as ``CausalWan``."""

    @property
    def config(self) -> Any:
        """Shape of the network; ``config.prediction`` says what it predicts."""
        ...

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        audio_rows: Tensor,
        portrait: Tensor,
        plan: Plan,
        text: Tensor | None = None,
        memory: Any = None,
    ) -> Tensor:
        """Predict for the frames of a plan that are not silent, with gradients."""
        ...


Networks = Mapping[str, Any]
"""Networks by role: ``student``, ``teacher``, ``critic``."""


@attrs.frozen(eq=False)
class Conditions:
    """What a whole clip is made from."""

    portrait: Tensor
    """``[b, 1, c, h, w]``."""
    rows: Tensor
    """``[b, 4 f, d]``."""
    text: Tensor | None = None

    def silent(self, negative: Tensor | None = None) -> "Conditions":
        """Return the unconditional ones of guidance: no audio, the same portrait.

        Networks that take text read ``negative [1, token, d]`` instead of the prompt, or zeros.
        """
        text = self.text
        if text is not None:
            blank = torch.zeros_like(text) if negative is None else negative.to(text)
            text = blank.expand_as(text)
        return Conditions(self.portrait, torch.zeros_like(self.rows), text)

    def unheard(self) -> "Conditions":
        """Return the same without audio."""
        return Conditions(self.portrait, torch.zeros_like(self.rows), self.text)


def predict(
    network: Trainable, noisy: Tensor, sigma: Tensor, given: Conditions, plan: Plan
) -> Tensor:
    """Run a network over ``[portrait | noisy frames]``; returns its output ``[b, f, c, h, w]``.

    ``noisy [b, f, c, h, w]`` at ``sigma [b, f]``; the portrait stands before it, clean and driven
    by no audio, as it does in a stream.
    """
    rows = torch.cat([torch.zeros_like(given.rows[:, :4]), given.rows], dim=1)
    frames = torch.cat([given.portrait.to(noisy), noisy], dim=1)
    times = torch.cat([sigma.new_zeros(len(sigma), 1), NUM_TIMESTEPS * sigma], dim=1)
    return network.denoise(frames, times, rows, given.portrait, plan, given.text)


def to_clean(network: Trainable, output: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return x_0 = x_sigma - sigma v; an x0-prediction is x_0.

    ``output`` may lack leading frames of ``noisy``, those that were silent.
    """
    if network.config.prediction == "x0":
        return output
    noisy, sigma = noisy[:, -output.shape[1] :], sigma[:, -output.shape[1] :]
    return noisy - per_frame(sigma, noisy) * output


def to_velocity(network: Trainable, output: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return v = (x_sigma - x_0) / sigma; a velocity is v. Levels must be above 0 for x_0.

    ``output`` may lack leading frames of ``noisy``, those that were silent.
    """
    if network.config.prediction == "velocity":
        return output
    noisy, sigma = noisy[:, -output.shape[1] :], sigma[:, -output.shape[1] :]
    return (noisy - output) / per_frame(sigma, noisy)


def predict_clean(
    network: Trainable, noisy: Tensor, sigma: Tensor, given: Conditions, plan: Plan
) -> Tensor:
    """Return the clean estimate of every frame that is not silent."""
    return to_clean(network, predict(network, noisy, sigma, given, plan), noisy, sigma)


def predict_velocity(
    network: Trainable, noisy: Tensor, sigma: Tensor, given: Conditions, plan: Plan
) -> Tensor:
    """Return the velocity of every frame that is not silent."""
    return to_velocity(network, predict(network, noisy, sigma, given, plan), noisy, sigma)
