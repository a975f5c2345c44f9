"""The denoising network: Wan 2.1's transformer over latent frames, audio added, any plan of keys.

One differentiable forward serves the portrait's prefill, the clean pass, the window pass, both
fused into one longer sequence, and training; the plan alone says who sees whom.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from af_core.errors import ConfigError, ShapeError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.models.attention import Attention
from af_core.models.prompt_padding import merge_padding
from af_core.models.reference_detail import ReferenceDetail
from af_core.models.rope import RotaryPositions
from af_core.models.segments import Layout, attend, lay_out, save
from af_core.models.wan_layers import AudioProjection, Head, Layer, LayerModulation, PromptKeys
from af_core.models.wan_values import (
    CausalWanConfig,
    Conditions,
    KeyValues,
    Memory,
    Modulation,
    SharedKeyValues,
    joined_prompts,
    timestep_features,
)
from af_core.stages.denoiser import Plan

_MODULATIONS_KEPT = 12


class CausalWan(nn.Module):
    """Weights only: nothing a stream remembers is kept here (spec section 1)."""

    def __init__(self, config: CausalWanConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embedding = nn.Conv3d(
            c.in_channels, c.dim, (1, c.patch, c.patch), (1, c.patch, c.patch)
        )
        if c.text_dim is not None:
            self.text_embedding = _mlp(c.text_dim, c.dim, nn.GELU(approximate="tanh"))
        self.time_embedding = _mlp(c.freq_dim, c.dim, nn.SiLU())
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(c.dim, 6 * c.dim))
        text = c.text_dim is not None
        self.blocks = nn.ModuleList(
            Layer(c.dim, c.ffn_dim, c.num_heads, c.eps, c.qk_norm, text)
            for _ in range(c.num_layers)
        )
        self.head = Head(c.dim, c.patch**2 * c.out_channels, c.eps)
        self.frame_mean = _mlp(c.out_channels, c.dim, nn.SiLU()) if c.frame_mean else None
        self.detail = None
        if c.reference_detail:
            self.detail = ReferenceDetail(c.dim, c.patch, c.out_channels, c.reference_detail)
        if c.injected_layers:
            self.audio_proj = AudioProjection(TEMPORAL_STRIDE * c.audio_dim, c.audio_hidden)
        self.audio_cond_projs = nn.ModuleList(
            nn.Linear(c.audio_hidden, c.dim) for _ in c.injected_layers
        )
        self.attention = Attention()
        self.merge_padding = True
        self.recompute = False
        self.rotary = RotaryPositions(c.head_dim, c.rope_theta)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.head.head.weight)
        if self.frame_mean is not None:
            nn.init.zeros_(self.frame_mean[-1].get_parameter("weight"))
        if self.detail is not None:
            self.detail.reset()

    @property
    def dtype(self) -> torch.dtype:
        """Type the network computes in."""
        return self.patch_embedding.weight.dtype

    @property
    def layers(self) -> list[Layer]:
        """The transformer layers, typed."""
        return [layer for layer in self.blocks if isinstance(layer, Layer)]

    def pack(self) -> "CausalWan":
        """Rearrange weights for the fastest inference on this CPU; elsewhere nothing happens.

        Call it when the weights are final. Moving, loading or training them undoes it, but a
        change of single values would not be seen.
        """
        for layer in self.layers:
            layer.pack()
        return self

    def open(self, portrait: Tensor, text: Tensor | None = None) -> Conditions:
        """Compute what stays constant for streams of portraits ``[b, 1, c, h, w]``.

        Without reference channels, only the size of the portrait is taken. ``text`` is
        ``[b or 1, text_len, text_dim]``, needed exactly if the network has text.
        """
        c = self.config
        if portrait.dim() != 5 or portrait.shape[1:3] != (1, c.portrait_channels):
            raise ShapeError(
                f"A portrait latent is [b, 1, {c.portrait_channels}, h, w], "
                f"not {list(portrait.shape)}."
            )
        grid = portrait.shape[3] // c.patch, portrait.shape[4] // c.patch
        tokens = self._reference_tokens(portrait)
        prompt = self._text(text, len(portrait))
        seen = None if self.detail is None else self.detail.see(portrait)
        return Conditions(portrait, *tokens, prompt, grid, seen)

    def _reference_tokens(self, portrait: Tensor) -> tuple[Tensor, Tensor]:
        """Return what reference and mask add to the portrait's frame and to others [b, s, dim]."""
        c, reference = self.config, self.config.reference_channels
        cells = self._patches(portrait)[:, 0, :, : reference * c.patch**2]
        extra = self.patch_embedding.weight[:, c.out_channels :, 0]
        weight, mask = extra.tensor_split([reference], dim=1)
        tokens = F.linear(cells, weight.flatten(1), self.patch_embedding.bias)
        return tokens, tokens + mask.sum((1, 2, 3))

    def _text(self, text: Tensor | None, num_streams: int) -> tuple[PromptKeys | None, ...]:
        """Return keys and values of the prompt; one that all streams share is computed once."""
        c = self.config
        if c.text_dim is None:
            if text is not None:
                raise ShapeError("This network has no text cross-attention; give no prompt.")
            return (None,) * c.num_layers
        if text is None or text.dim() != 3 or text.shape[1:] != (c.text_len, c.text_dim):
            raise ShapeError(
                f"A prompt embedding is [b, {c.text_len}, {c.text_dim}], "
                f"not {None if text is None else list(text.shape)}."
            )
        rows, logits = text.to(self.dtype), None
        if self.merge_padding:
            rows, logits = merge_padding(rows)
        rows, shape = self.text_embedding(rows), (num_streams, -1, -1, -1)
        keys = (layer.read(rows) for layer in self.layers)
        return tuple((k.expand(shape), v.expand(shape), logits) for k, v in keys)

    def allocate(self, conditions: Conditions, num_slots: int) -> KeyValues:
        """Return ``num_slots`` empty slots per layer, in the network's type and on its device."""
        c, tokens = self.config, conditions.portrait_tokens
        shape = (c.num_layers, tokens.shape[0], num_slots, tokens.shape[1], c.num_heads, c.head_dim)
        return KeyValues(tokens.new_zeros(shape), tokens.new_zeros(shape))

    def join(self, conditions: Sequence[Conditions]) -> Conditions:
        """Return the conditions of a batch of streams that were opened one by one."""
        first = conditions[0]
        return Conditions(
            portrait=torch.cat([one.portrait for one in conditions]),
            portrait_tokens=torch.cat([one.portrait_tokens for one in conditions]),
            other_tokens=torch.cat([one.other_tokens for one in conditions]),
            text=tuple(map(joined_prompts, zip(*(one.text for one in conditions), strict=True))),
            grid=first.grid,
            detail=_joined([one.detail for one in conditions]),
            modulations=first.modulations,
        )

    def share(self, memories: Sequence[KeyValues]) -> SharedKeyValues:
        """Return a memory that reads from, and writes into, those of single streams."""
        return SharedKeyValues(tuple(memories))

    def embed_audio(self, rows: Tensor) -> Tensor:
        """Map feature rows ``[b, 4 f, audio_dim]`` to vectors ``[b, f, places, dim]``."""
        if rows.dim() != 3 or rows.shape[1] % TEMPORAL_STRIDE or rows.shape[2] != self.audio_dim:
            raise ShapeError(
                f"Audio rows are [b, a multiple of {TEMPORAL_STRIDE}, {self.audio_dim}], "
                f"not {list(rows.shape)}."
            )
        packed = rows.to(self.dtype).unflatten(1, (-1, TEMPORAL_STRIDE)).flatten(2)
        if not self.config.injected_layers:
            return packed.new_zeros(*packed.shape[:2], 0, self.config.dim)
        vector = self.audio_proj(packed)
        return torch.stack([project(vector) for project in self.audio_cond_projs], dim=2)

    @property
    def audio_dim(self) -> int:
        """Width of one audio feature row."""
        return self.config.audio_dim

    def silence(self, num_streams: int) -> Tensor:
        """Return the vectors of one latent frame whose feature rows are zero (spec 1.7)."""
        rows = self.patch_embedding.weight.new_zeros(num_streams, TEMPORAL_STRIDE, self.audio_dim)
        return self.embed_audio(rows)

    def modulation(self, timesteps: Tensor) -> Modulation:
        """Compute the modulation of frames at float timesteps ``[f]`` or ``[b, f]``."""
        timesteps = timesteps.reshape(-1, timesteps.shape[-1])
        e = self.time_embedding(timestep_features(timesteps, self.config.freq_dim, self.dtype))
        six = self.time_projection(e).unflatten(-1, (6, -1))
        layers = [LayerModulation(*layer.modulate(six)) for layer in self.layers]
        shift, scale = (self.head.modulation + e.unsqueeze(-2)).unsqueeze(-2).unbind(2)
        return Modulation(tuple(layers), shift, 1 + scale)

    def recall_modulation(self, conditions: Conditions, timesteps: Sequence[float]) -> Modulation:
        """Return the modulation of frames at known timesteps, computed once per stream."""
        key, kept = tuple(timesteps), conditions.modulations
        if key not in kept:
            device = self.patch_embedding.weight.device
            kept[key] = self.modulation(torch.tensor(key, dtype=torch.float32, device=device))
            if len(kept) > _MODULATIONS_KEPT:
                kept.popitem(last=False)
        return kept[key]

    def forward(
        self,
        latents: Tensor,
        modulation: Modulation,
        audio: Tensor,
        conditions: Conditions,
        plan: Plan,
        memory: Memory | None = None,
    ) -> Tensor | None:
        """Predict for the frames of a pass; returns ``[b, f - silent, c, h, w]``, None if empty.

        ``latents [b, f, c, h, w]`` noisy or clean, ``audio [b, f, places, dim]`` from
        ``embed_audio``. With gradients on, nothing is written and ``plan.saves`` must be empty; if
        ``recompute`` is set, activations are then computed again in the backward pass.
        """
        _check(plan, memory)
        x = self._embed(latents, conditions, plan)
        layout = self._lay_out(plan, conditions, x)
        tracks = torch.is_grad_enabled()
        for index in range(self.config.num_layers):
            inputs = (index, x, modulation, audio, conditions, layout, memory)
            if self.recompute and tracks:
                x = checkpoint(self._layer, *inputs, use_reentrant=False)
            else:
                x = self._layer(*inputs)
            if x is None:
                return None
        shift, scale = modulation.head_shift, modulation.head_scale
        x = self.head.settle(x, shift[:, plan.num_silent :], scale[:, plan.num_silent :])
        out = self.head(x)
        if self.detail is not None and conditions.detail is not None:
            out = out + self.detail(x, conditions.detail)
        change = self._unpatch(out, conditions.grid).to(latents.dtype)
        return change + conditions.portrait if self.config.from_reference else change

    def _layer(
        self,
        index: int,
        x: Tensor,
        modulation: Modulation,
        audio: Tensor,
        conditions: Conditions,
        layout: Layout,
        memory: Memory | None,
    ) -> Tensor | None:
        """Run one layer; the last returns frames that are not silent, None without any."""
        layer, m, plan = self.layers[index], modulation.layers[index], layout.plan
        if index in self.config.injected_layers:
            place = self.config.injected_layers.index(index)
            x = x + audio[:, :, place, None]
        first = plan.num_silent if index == self.config.num_layers - 1 else 0
        q, k, v = layer.qkv(x, m, layout.rotation, first)
        if first == x.shape[1]:
            save(memory, index, k, v, plan)
            return None
        stored = None if memory is None else memory.recall(index, plan)
        attended = attend(q, k, v, layout, self.attention, stored)
        save(memory, index, k, v, plan)
        if first:
            x, m = x[:, first:], m.from_frame(first)
        return layer.finish(x, attended, m, conditions.text[index], self.attention)

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        audio_rows: Tensor,
        portrait: Tensor,
        plan: Plan,
        text: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Run the whole network once on raw inputs, differentiably: the face of training.

        ``latents [b, f, c, h, w]``, ``timesteps [b or 1, f]`` in [0, 1000], ``audio_rows
        [b, 4 f, audio_dim]``, ``portrait [b, 1, c, h, w]``; ``memory`` is read where the plan
        says, as a stream would have left it.
        """
        conditions = self.open(portrait, text)
        audio = self.embed_audio(audio_rows)
        out = self(latents, self.modulation(timesteps), audio, conditions, plan, memory)
        if out is None:
            raise ConfigError("Every frame of this plan is silent: there is nothing to predict.")
        return out

    def _lay_out(self, plan: Plan, conditions: Conditions, x: Tensor) -> Layout:
        c = self.config
        inference = not torch.is_grad_enabled()
        return lay_out(
            plan,
            self.rotary,
            conditions.grid,
            x,
            (c.num_heads, c.head_dim) if inference else None,
        )

    def _embed(self, latents: Tensor, conditions: Conditions, plan: Plan) -> Tensor:
        if latents.dim() != 5 or latents.shape[1] != len(plan.positions):
            raise ShapeError(
                f"This pass takes latents [b, {len(plan.positions)}, c, h, w], "
                f"not {list(latents.shape)}."
            )
        weight = self.patch_embedding.weight[:, : self.config.out_channels, 0].flatten(1)
        x = F.linear(self._patches(latents), weight)
        if plan.portrait is None:
            x = x + conditions.other_tokens[:, None]
        else:
            tokens = [conditions.other_tokens] * x.shape[1]
            tokens[plan.portrait] = conditions.portrait_tokens
            x = x + torch.stack(tokens, dim=1)
        if self.frame_mean is None:
            return x
        return x + self.frame_mean(_frame_means(latents).to(x.dtype)).unsqueeze(2)

    def _patches(self, latents: Tensor) -> Tensor:
        """Cut ``[b, f, c, h, w]`` into tokens of cells, ``[b, f, s, c * patch * patch]``."""
        b, f, c, h, w = latents.shape
        p = self.config.patch
        if h % p or w % p:
            raise ShapeError(f"A latent grid of {h}x{w} does not split into {p}x{p} patches.")
        cells = latents.to(self.dtype).reshape(b, f, c, h // p, p, w // p, p)
        return cells.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, f, (h // p) * (w // p), c * p * p)

    def _unpatch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Join ``[b, f, s, patch * patch * c]`` (channel fastest) into latents."""
        b, f, _, _ = tokens.shape
        p, (rows, columns) = self.config.patch, grid
        cells = tokens.view(b, f, rows, columns, p, p, self.config.out_channels)
        return cells.permute(0, 1, 6, 2, 4, 3, 5).reshape(b, f, -1, rows * p, columns * p)


def _frame_means(latents: Tensor) -> Tensor:
    """Return the mean of each channel ``[b, f, c]``, bounded; of noise, about standard normal."""
    cells = latents.shape[-2] * latents.shape[-1]
    return 3 * torch.tanh(latents.mean((-2, -1)) * (cells**0.5 / 3))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _mlp(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), activation, nn.Linear(outputs, outputs))


def _check(plan: Plan, memory: Memory | None) -> None:
    if plan.saves and torch.is_grad_enabled():
        raise ConfigError("Keys and values are saved at inference only: use torch.no_grad().")
    if memory is None and (plan.saves or plan.stored or plan.anchor_slot is not None):
        raise ConfigError("This plan reads or writes stored keys and values; give it a memory.")
