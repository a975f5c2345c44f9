"""The stages of af-runtime, registered through the hooks of af-core."""

from pathlib import Path
from typing import Any, Literal

import msgspec
from af_core.errors import PromptError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, hookimpl
from af_core.plugins.hookspecs import API_VERSION, Register
from af_core.ports import Declaration, Format, Port, text_rows
from af_core.problems import Problem

from af_runtime.text.files import EncoderFiles, file_problems
from af_runtime.text.places import user_cache
from af_runtime.text.readiness import readiness_problems

af_plugin_api = API_VERSION


class UMT5Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """umT5's encoder: each prompt once; later runs find it in the cache and need no weights."""

    weights: str | None = None
    """File of the encoder (.pth or .safetensors, Wan's names), relative to the pipeline file."""
    tokenizer: str | None = None
    """Folder of the tokenizer, relative to the pipeline file."""
    prompt_cache: str | None = None
    """Folder or file of encoded prompts; None: ``$AF_CACHE/prompts``, or the user's cache."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Type in which prompts are encoded."""
    text_len: int = 512
    """Tokens that are read, and rows of an embedding, padding included."""
    text_dim: int = 4096
    """Width of an embedding."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a prompt in, rows out; no weights are held."""
        return Declaration(
            (Port("prompt", Format("text")),),
            (Port("embeddings", text_rows(self.text_dim)),),
            num_parameters=0,
            facts={"prompts": f"encoded once, kept in {self.cache}"},
        )

    @property
    def cache(self) -> Path:
        """Where encoded prompts are kept."""
        return user_cache("prompts") if self.prompt_cache is None else Path(self.prompt_cache)

    def prompt_problems(self, prompt: str) -> list[Problem]:
        """Return what keeps this prompt from being recalled or encoded, without torch."""
        size = (self.text_len, self.text_dim)
        try:
            return readiness_problems(prompt, self.cache, self._paths(), size)
        except PromptError as e:
            return list(e.problems)

    def build(self, context: BuildContext) -> Any:
        """Build the encoder; nothing is read before a prompt comes."""
        from af_runtime.text.encoder import UMT5Encoder

        weights, tokenizer = self._paths()
        files = None
        if weights and tokenizer and not file_problems(weights, tokenizer):
            files = EncoderFiles(weights, tokenizer, self.text_len, self.precision)
        return UMT5Encoder(self.cache, files, self.text_len, self.text_dim, context.device)

    def _paths(self) -> tuple[Path | None, Path | None]:
        weights = None if self.weights is None else Path(self.weights)
        return weights, None if self.tokenizer is None else Path(self.tokenizer)


@hookimpl
def af_register_text_encoders(register: Register) -> None:
    """Offer the text encoder of the published models."""
    register("umt5", UMT5Options)
