"""Guidance: how far a teacher leans towards what it is told, by voice and by prompt apart.

With both weights equal, v = v(-) + w (v(text, audio) - v(-)), two passes. Else the prompt comes
first and the voice on top of it, three passes: v = v(-) + w_text (v(text) - v(-)) +
w_audio (v(text, audio) - v(text)). "-" has rows of zeros and the negative prompt; the portrait
stays. Some code has v + g (v - v(-)) instead, which is w = 1 + g.
"""

from collections.abc import Callable

import attrs
from af_core.errors import ConfigError
from af_core.plugins import BuildContext
from torch import Tensor

from af_train.networks import Conditions
from af_train.objectives.matching import guided

Ask = Callable[[Conditions], Tensor]
"""One pass of the teacher: what it says, given these conditions."""


@attrs.frozen(eq=False)
class Guidance:
    """Weights of voice and prompt, and what is read where there is no prompt."""

    audio: float
    text: float
    negative: Tensor | None = None
    """Embedding ``[1, token, d]`` of the negative prompt; None reads zeros."""

    def __call__(self, ask: Ask, given: Conditions) -> Tensor:
        """Return the guided answer; no pass is run that would not change it."""
        known, text = ask(given), self.audio if given.text is None else self.text
        if self.audio == text == 1:
            return known
        if self.audio == text:
            return guided(ask(given.silent(self.negative)), known, text)
        unheard = ask(given.unheard())
        told = unheard if text == 1 else guided(ask(given.silent(self.negative)), unheard, text)
        return told + self.audio * (known - unheard)


def guidance_of(
    context: BuildContext, audio: float, text: float | None, negative_prompt: str | None
) -> Guidance:
    """Return guidance by options; a negative prompt is encoded by the pipeline's text encoder.

    ``text`` None is as ``audio``. Raises ``ConfigError`` for a prompt that nothing can encode.
    """
    return Guidance(
        audio, audio if text is None else text, encoded_prompt(context, negative_prompt)
    )


def encoded_prompt(context: BuildContext, prompt: str | None) -> Tensor | None:
    """Return the embedding ``[1, token, d]`` of a prompt; None for none."""
    if prompt is None:
        return None
    encoder = context.stages.get("text_encoder")
    if encoder is None:
        raise ConfigError(
            f"negative_prompt={prompt!r}: this pipeline has no text_encoder. Leave it out: then "
            "zeros stand for it."
        )
    return encoder.encode([prompt])
