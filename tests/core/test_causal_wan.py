"""The network: its parts against plain formulas, training against streaming."""

import math
from concurrent.futures import ThreadPoolExecutor

import oracle
import pytest
import tiny_wan as tiny
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import ConfigError, ShapeError
from af_core.geometry import Geometry
from af_core.models.attention import Attention, explicit, sdpa
from af_core.models.causal_wan import CausalWan
from af_core.models.packed import can_pack
from af_core.models.rope import RotaryPositions, rotate, rotations
from af_core.models.wan_config import CausalWanConfig
from af_core.models.wan_values import timestep_features
from af_core.plugins.builtin.networks import CausalWanOptions
from af_core.plugins.contract import BuildContext
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL = tiny.make(seed=5)
NET = tiny.as_net(MODEL)


@settings(max_examples=20, deadline=None)
@given(
    index=st.integers(-(10**9), 10**9),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    head_dim=st.sampled_from([8, 16, 32, 128]),
)
def test_rotary_positions_equal_complex128(index, rows, columns, head_dim):
    x = torch.randn(rows * columns, 2, head_dim)
    made = rotate(x[None], rotations([index], (rows, columns), head_dim))[0]
    wanted = oracle.turn(NET, x.double(), index, rows, columns)
    torch.testing.assert_close(made.double(), wanted, atol=1e-6, rtol=0)


def test_training_may_use_the_rotations_that_inference_remembered():
    rotary = RotaryPositions(8, 10_000.0)
    with torch.inference_mode():
        rotary((0, 1), (1, 1), torch.device("cpu"))
    x = torch.randn(1, 2, 1, 1, 8, requires_grad=True)
    rotate(x, rotary((0, 1), (1, 1), torch.device("cpu"))).sum().backward()
    assert x.grad is not None


def test_the_pairs_of_the_published_head_split_22_21_21():
    turned = rotations([1], (2, 2), 128)[0, :, 0]
    moved = (turned[3].angle() != 0).nonzero().flatten()
    assert len(moved) == 64
    assert (rotations([0], (2, 1), 128)[0, 1, 0].angle() != 0).nonzero().flatten().tolist() == [
        *range(22, 43)
    ]


def test_time_features_equal_float64_cosines_and_sines():
    made = timestep_features(torch.tensor([952.38104, 0.0]), 16, torch.float32)
    t = float(torch.tensor(952.38104))
    angles = [t * 10_000 ** (-i / 8) for i in range(8)]
    wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    torch.testing.assert_close(made[0], torch.tensor(wanted), atol=1e-7, rtol=0)
    assert made[1].tolist() == [1.0] * 8 + [0.0] * 8


def test_audio_rows_are_packed_row_after_row():
    rows = tiny.speech(3)
    made = MODEL.embed_audio(rows)[0].double()
    for f in range(3):
        wanted = oracle.audio_vectors(NET, rows[0, 4 * f : 4 * f + 4].double())
        torch.testing.assert_close(made[f], torch.stack(wanted), atol=1e-5, rtol=0)


def test_no_audio_still_adds_a_constant_vector():
    assert MODEL.silence(2).abs().min(-1).values.max() > 0
    torch.testing.assert_close(MODEL.silence(1), MODEL.embed_audio(torch.zeros(1, 4, 5)))


def test_audio_enters_where_the_published_rule_says():
    def places(layers):
        return CausalWanConfig(num_layers=layers).injected_layers

    assert places(30) == tuple(range(2, 16))
    assert places(6) == (2, 3)
    assert places(2) == places(3) == places(1) == ()


def test_patches_are_cut_and_joined_as_a_convolution_would():
    latents = torch.randn(1, 2, 3, 4, 8)
    conditions = MODEL.open(tiny.portrait())
    plan = DualAnchorCache(DualAnchorConfig(style_anchor=False)).window(
        DualAnchorCache().open(), 1, 2
    )
    made = MODEL._embed(latents, conditions, plan)[0]
    for f in range(2):
        wanted = oracle.frame_tokens(NET, latents[0, f].double(), tiny.portrait()[0, 0].double(), 1)
        torch.testing.assert_close(made[f].double(), wanted, atol=1e-5, rtol=0)
    tokens = torch.randn(1, 1, 8, 12)
    joined = MODEL._unpatch(tokens, (2, 4))[0, 0]
    torch.testing.assert_close(joined.double(), oracle.join(NET, tokens[0, 0], (3, 4, 8)))


def training_inputs(b=2, block=1):
    history, window = 2 * block, 3 * block
    frames = 1 + history + window
    g = torch.Generator().manual_seed(4)
    latents = torch.randn(b, frames, 3, 4, 8, generator=g)
    times = torch.tensor([[0.0] * (1 + history) + [300.0] * block + [600.0] * block
                          + [1000.0] * block] * b)  # fmt: skip
    rows = torch.randn(b, 4 * frames, 5, generator=g)
    rows[:, :4] = 0
    return latents, times, rows, history, window


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_a_training_pass_equals_the_passes_of_a_stream(block, grad):
    latents, times, rows, history, window = training_inputs(block=block)
    face, cache = latents[:, :1], DualAnchorCache(DualAnchorConfig(temporal_budget=2 * block))
    with torch.set_grad_enabled(grad):
        plan = cache.training(history, block, window)
        made = MODEL.denoise(latents, times, rows, face, plan).detach()
    with torch.no_grad():
        conditions = MODEL.open(face)
        memory, anchors = MODEL.allocate(conditions, cache.num_slots), cache.open()
        audio, still = MODEL.embed_audio(rows), MODEL.modulation(torch.zeros(block))
        prefill = MODEL.modulation(torch.zeros(1))
        assert MODEL(face, prefill, audio[:, :1], conditions, cache.prefill(), memory) is None
        for at in range(1, 1 + history, block):
            here = slice(at, at + block)
            plan, anchors = cache.absorb(anchors, at, block)
            MODEL(latents[:, here], still, audio[:, here], conditions, plan, memory)
        noisy = slice(1 + history, None)
        plan = cache.window(anchors, 1 + history, window)
        wanted = MODEL(
            latents[:, noisy], MODEL.modulation(times[:, noisy]), audio[:, noisy], conditions,
            plan, memory,
        )  # fmt: skip
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_gradients_reach_every_weight_and_the_latents():
    latents, times, rows, history, window = training_inputs()
    latents.requires_grad_()
    model = tiny.make(text=True)
    plan = DualAnchorCache(DualAnchorConfig(temporal_budget=2)).training(history, 1, window)
    made = model.denoise(latents, times, rows, latents[:, :1], plan, tiny.prompt())
    made.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert (latents.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_gradients_equal_finite_differences():
    model = tiny.make(layers=2).double()
    latents, times, rows, history, window = training_inputs(b=1)
    latents, rows = latents.double(), rows.double()
    plan = DualAnchorCache(DualAnchorConfig(temporal_budget=2)).training(history, 1, window)

    def loss(x):
        return model.denoise(x, times, rows, x[:, :1], plan).square().sum()

    x = latents.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x), x)
    step = 1e-3 * torch.randn(x.shape, dtype=torch.float64)
    with torch.no_grad():
        moved = float((loss(latents + step) - loss(latents - step)) / 2)
    assert float((slope * step).sum()) == pytest.approx(moved, rel=1e-4, abs=1e-4)


def test_keys_are_not_saved_with_gradients_on():
    cache, conditions = DualAnchorCache(), MODEL.open(tiny.portrait())
    memory = MODEL.allocate(conditions, 3)
    with pytest.raises(ConfigError, match="no_grad"):
        MODEL(tiny.portrait(), MODEL.modulation(torch.zeros(1)), MODEL.silence(1), conditions,
              cache.prefill(), memory)  # fmt: skip


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match=r"\[b, 1, 3, h, w\]"):
        MODEL.open(torch.zeros(1, 2, 3, 4, 8))
    with pytest.raises(ShapeError, match="4x7"):
        MODEL.open(torch.zeros(1, 1, 3, 4, 7))
    with pytest.raises(ShapeError, match="no text"):
        MODEL.open(tiny.portrait(), tiny.prompt())
    with pytest.raises(ShapeError, match=r"\[b, 3, 7\]"):
        tiny.make(text=True).open(tiny.portrait())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_heads": 5}, "5 heads"),
        ({"freq_dim": 7}, "even"),
        ({"in_channels": 17}, "it is 33"),
        ({"audio_layers": (1, 99)}, "99"),
    ],
)
def test_a_contradictory_config_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        CausalWan(CausalWanConfig(**{"dim": 24, "num_heads": 2, "num_layers": 2} | fields))


def test_the_published_size_has_the_published_names_and_count():
    with torch.device("meta"):
        model = CausalWan(CausalWanConfig())
    names = model.state_dict()
    assert len(names) == 857
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 4) == 1.4212
    assert names["audio_proj.proj.weight"].shape == (32, 43_008)
    assert names["blocks.29.cross_attn.norm_q.weight"].shape == (1536,)


def test_attention_kernels_agree_and_a_winner_is_kept():
    q, k = torch.randn(2, 6, 3, 8), torch.randn(2, 10, 3, 8)
    v, mask = torch.randn(2, 10, 3, 8), torch.rand(6, 10) > 0.3
    mask[:, 0] = True
    for m in (None, mask):
        args = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), m)
        torch.testing.assert_close(sdpa(*args), explicit(*args), atol=1e-6, rtol=0)
    attention = Attention()
    with torch.no_grad():
        attention(q, k, v)
        attention(q, k, v)
    assert list(attention.winners.values()) in (["sdpa"], ["explicit"])


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "explicit"])
def test_the_attention_kernel_can_be_pinned_in_the_pipeline(kernel):
    size = {"dim": 24, "ffn_dim": 32, "num_layers": 2, "num_heads": 2, "text_dim": None}
    options = CausalWanOptions(**size, audio_dim=5, attention=kernel)
    model = options.build(BuildContext(Geometry(32, 48, 1)))
    q = torch.randn(1, 4, 2, 12)
    with torch.no_grad():
        model.attention(q, q, q)
    assert model.attention.kernel == kernel
    assert bool(model.attention.winners) == (kernel == "auto")


def test_threads_share_the_memory_of_rotary_positions():
    rotary = RotaryPositions(12, 100.0)

    def turn(start):
        return [rotary([start + i % 700], (2, 2), torch.device("cpu")).sum() for i in range(2000)]

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(turn, [0, 0, 0, 0]))
    assert made[0] == made[1] == made[2] == made[3]
    assert len(rotary._recent) <= 256 + 4


def test_bfloat16_stays_near_float32():
    rows, face = tiny.speech(6), tiny.portrait()
    exact, _ = tiny.run(tiny.streamer(MODEL), rows, face)
    rough, _ = tiny.run(tiny.streamer(tiny.make(seed=5).bfloat16()), rows, face)
    assert rough.dtype == torch.float32
    assert (exact - rough).pow(2).mean().sqrt() < 0.1 * exact.std()


def test_packed_weights_give_the_numbers_of_the_plain_ones():
    rows, face = tiny.speech(6), tiny.portrait()
    plain, _ = tiny.run(tiny.streamer(tiny.make(text=True)), rows, face, text=tiny.prompt())
    model = tiny.make(text=True).pack()
    assert all(layer.packed is not None for layer in model.layers) == can_pack(
        model.head.head.weight
    )
    packed, _ = tiny.run(tiny.streamer(model), rows, face, text=tiny.prompt())
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.train(),
        lambda m: m.double(),
        lambda m: m.load_state_dict(tiny.make(seed=9).state_dict()),
    ],
)
def test_changing_the_weights_undoes_the_packing(change):
    model = tiny.make().pack()
    change(model)
    assert all(layer.packed is None for layer in model.layers)
