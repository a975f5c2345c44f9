"""A prompt's rows of padding may be one key: against the plain path, the oracle, and a formula."""

import math

import msgspec
import pytest
import tiny_wan as tiny
import torch
from af_core.geometry import Geometry
from af_core.models.attention import explicit, sdpa
from af_core.models.prompt_padding import merge_padding
from af_core.plugins.builtin.networks import CausalWanOptions
from af_core.plugins.contract import BuildContext

ROWS = 40


def network(merge=True, dtype=torch.float32):
    model = tiny.make(text=True)
    model.config = msgspec.structs.replace(model.config, text_len=ROWS)
    model.merge_padding = merge
    return model.to(dtype)


def padded(used, b=1, seed=3):
    rows = torch.zeros(b, ROWS, tiny.TEXT_DIM)
    g = torch.Generator().manual_seed(seed)
    rows[:, :used] = torch.randn(b, used, tiny.TEXT_DIM, generator=g)
    return rows


def clip(model, text, b=1, **options):
    rows, face = tiny.speech(6, b=b), tiny.portrait(b)
    return tiny.run(tiny.streamer(model, **options), rows, face, seeds=range(b), text=text)[0]


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("used", [0, 1, 7, ROWS - 2, ROWS - 1, ROWS])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_what_is_read_of_a_shared_prompt_does_not_change(used, kernel, dtype, tolerance):
    made = []
    for merge in (True, False):
        model = network(merge, dtype)
        model.attention.kernel = kernel
        keys = model.open(tiny.portrait(3), padded(used)).text[0]
        rng = torch.Generator().manual_seed(used)
        q = torch.randn(3, 6, 2, 12, generator=rng, dtype=torch.float64).to(dtype)
        made.append(model.attention(q, *keys))
    torch.testing.assert_close(made[0], made[1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("used", [0, 7, ROWS])
def test_streams_that_share_a_prompt_make_the_same_clips(used):
    made = [clip(network(merge), padded(used), b=3) for merge in (True, False)]
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=0)


def test_prompts_of_different_lengths_share_what_all_of_them_pad():
    text = padded(12, b=2)
    text[1, 5:] = 0
    assert merge_padding(text)[0].shape[1] == 13
    both = clip(network(), text, b=2)
    torch.testing.assert_close(both, clip(network(merge=False), text, b=2), atol=1e-5, rtol=0)


def test_the_merged_padding_gives_the_numbers_of_the_oracle():
    engine, text = tiny.streamer(network()), padded(5)
    rows, face = tiny.speech(5), tiny.portrait()
    made, _ = tiny.run(engine, rows, face, text=text)
    wanted = tiny.by_oracle(engine, rows, face, text=text)
    torch.testing.assert_close(made[0].double(), wanted, atol=1e-5, rtol=0)


def test_training_gets_the_same_gradients():
    made = []
    for merge in (True, False):
        model = network(merge, torch.float64)
        conditions = model.open(tiny.portrait(), padded(5))
        q = model.layers[0].cross_attn.query(torch.ones(1, 6, 24, dtype=torch.float64))
        model.attention(q, *conditions.text[0]).square().sum().backward()
        made.append(model.text_embedding[0].bias.grad)
    torch.testing.assert_close(made[0], made[1], atol=1e-7, rtol=1e-6)


def test_a_key_is_kept_for_each_used_row_and_one_for_the_padding():
    rows, logits = merge_padding(padded(7))
    assert rows.shape == (1, 8, tiny.TEXT_DIM)
    assert logits.tolist() == [pytest.approx([0] * 7 + [math.log(ROWS - 7)])]
    conditions = network().open(tiny.portrait(3), padded(7))
    assert {keys.shape for keys, _, _ in conditions.text} == {(3, 8, 2, 12)}


def test_rows_of_zeros_between_used_ones_are_no_padding():
    text = padded(9)
    text[:, 3:6] = 0
    rows, _ = merge_padding(text)
    assert torch.equal(rows, text[:, :10])


def test_types_that_round_the_logarithm_and_rows_that_are_trained_are_left_alone():
    assert merge_padding(padded(7).bfloat16())[1] is None
    assert merge_padding(padded(7).requires_grad_())[1] is None
    assert clip(network(dtype=torch.bfloat16), padded(7)).isfinite().all()


@pytest.mark.parametrize("kernel", [sdpa, explicit])
def test_kernels_add_a_float_mask_to_the_logits(kernel):
    q, k, v = torch.randn(3, 2, 2, 5, 8).unbind(0)
    mask = torch.randn(1, 5)
    logits = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) / math.sqrt(8) + mask
    wanted = torch.einsum("bhqk,bhkd->bhqd", logits.softmax(-1), v.double())
    torch.testing.assert_close(kernel(q, k, v, mask).double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("merge", [True, False])
def test_merging_can_be_chosen_in_the_pipeline(merge):
    size = {"dim": 24, "ffn_dim": 32, "num_layers": 2, "num_heads": 2, "text_dim": 7}
    options = CausalWanOptions(**size, audio_dim=5, text_len=ROWS, merge_padding=merge)
    conditions = options.build(BuildContext(Geometry(32, 48, 1))).open(
        torch.zeros(1, 1, 16, 4, 6), padded(7)
    )
    assert conditions.text[0][0].shape[1] == (8 if merge else ROWS)
