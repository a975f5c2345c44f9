"""What tokens take from the reference: against the slow oracle, alone and in batches."""

import pytest
import tiny_wan as tiny
import torch
from af_core.errors import ConfigError
from af_core.models.causal_wan import CausalWan
from af_core.models.reference_detail import ReferenceDetail
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins.builtin.networks import num_parameters

FACE = tiny.portrait()
PARTS = [{"reference_detail": 5}, {"frame_mean": True}, {"reference_detail": 4, "frame_mean": True}]


def network(**parts):
    return tiny.make(prediction="x0", from_reference=True, **parts)


@pytest.mark.parametrize("parts", [{}, *PARTS])
def test_a_stream_equals_the_oracle(parts):
    engine = tiny.streamer(network(**parts), temporal_budget=2)
    rows = tiny.speech(5)
    made, _ = tiny.run(engine, rows, FACE, seeds=(5,))
    wanted = tiny.by_oracle(engine, rows, FACE, seed=5)
    torch.testing.assert_close(made[0].double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("parts", PARTS)
def test_it_counts_its_parameters(parts):
    model = network(**parts)
    assert sum(p.numel() for p in model.parameters()) == num_parameters(model.config)


def test_a_fresh_network_adds_nothing_of_its_own():
    c = tiny.make().config
    shape = {name: getattr(c, name) for name in c.__struct_fields__}
    shape |= {"prediction": "x0", "from_reference": True}
    torch.manual_seed(0)
    plain = CausalWan(CausalWanConfig(**shape)).eval()
    more = CausalWan(CausalWanConfig(**shape | {"reference_detail": 4, "frame_mean": True})).eval()
    missing, unknown = more.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown and {name.split(".")[0] for name in missing} == {"detail", "frame_mean"}
    rows = tiny.speech(3)
    (a, _), (b, _) = (tiny.run(tiny.streamer(m), rows, FACE, seeds=(1,)) for m in (plain, more))
    assert torch.equal(a, b)


def test_joined_streams_see_their_own_portraits():
    model = network(reference_detail=4)
    faces = [tiny.portrait(seed=seed) for seed in (1, 2, 3)]
    alone = [model.open(face) for face in faces]
    both = model.join(alone)
    torch.testing.assert_close(both.detail, model.open(torch.cat(faces)).detail)
    assert not torch.equal(both.detail[0], both.detail[1])


def test_a_cell_sees_the_reference_around_it_and_no_farther():
    part = ReferenceDetail(dim=3, patch=2, channels=2, width=4)
    reference = torch.randn(1, 1, 2, 4, 8)
    changed = reference.clone()
    changed[..., 0, 0] += 1
    moved = (part.see(reference) != part.see(changed)).any(-1)[0, 0]
    assert moved.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_it_needs_a_reference_to_add_to():
    with pytest.raises(ConfigError, match="from_reference"):
        CausalWanConfig(reference_detail=8)
