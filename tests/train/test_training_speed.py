"""What makes training cheaper: bfloat16, roll-outs that the critic sees again, a given start."""

import attrs
import msgspec
import pytest
import tiny_training as t
import torch
from af_core.errors import ConfigError
from af_core.models.attention import Attention
from af_core.weights.files import read_tensors, write_tensors
from af_train.objectives.contract import CRITIC, STUDENT, drawn_at
from af_train.objectives.dmd import Scored
from af_train.recipes.lamp import lamp_chain, lamp_recipe
from af_train.recipes.settings import with_settings
from af_train.trainer import RoleConfig, Trainer, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = RoleConfig(learning_rate=1e-3, average=0.9)


def trainer(directory, draws=1, steps=6, **options):
    made = t.objective("dmd", t.context(slots=2), critic_draws=draws, mix_self_forcing=0.0)
    config = TrainerConfig(steps, dict.fromkeys(made.roles, RATE), save_every=3, **options)
    models = t.networks(*made.roles, *made.frozen)
    return Trainer(made, models, t.Clips(), config, directory)


def products(network):
    """Collect the types of what the linear layers of a network make."""
    seen = set()
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    return seen


@pytest.mark.parametrize("name", ["flow-matching", "ode-regression", "dmd"])
def test_bfloat16_multiplies_in_half_and_adds_up_in_full(tmp_path, name):
    full = t.trainer(tmp_path / "full", name, RATE, steps=1)
    half = t.trainer(tmp_path / "half", name, RATE, steps=1, precision="bfloat16")
    seen = [products(network) for network in half.networks.values()]
    losses = {}
    for made in (full, half):
        step, kept = made._micro_batch, losses.setdefault(made, {})
        made._micro_batch = lambda n, m, step=step, kept=kept: kept.setdefault(n, step(n, m))
        made.fit()
    assert all(torch.bfloat16 in types for types in seen)
    for role, loss in losses[full].items():
        other = losses[half][role]["loss"]
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, loss["loss"], rtol=0.1, atol=1e-3)
    for role in half.roles.values():
        assert {p.dtype for p in role.network.parameters()} == {torch.float32}
        assert {v.dtype for v in role.average.values()} == {torch.float32}


def counted(made):
    """Count the roll-outs of an objective."""
    calls = []

    class Counting(type(made.objective)):
        def roll_out(self, turn, *rest):
            calls.append((turn.role, turn.step))
            return super().roll_out(turn, *rest)

    fields = attrs.asdict(made.objective, recurse=False, filter=lambda f, _: f.init)
    made.objective = Counting(**fields)
    return calls


def test_the_critic_learns_from_a_roll_out_as_often_as_it_is_told(tmp_path):
    made = trainer(tmp_path, draws=2, accumulate=2, steps=6)
    calls = counted(made)
    made.fit()
    critic = [step for role, step in calls if role == CRITIC]
    assert critic == [0, 0, 2, 2, 4, 4, 5, 5]  # twice for two micro-batches; the student moves at 5
    assert [step for role, step in calls if role == STUDENT] == [0, 0, 5, 5]


def test_what_is_seen_again_is_seen_at_other_levels(tmp_path):
    made = trainer(tmp_path, draws=5)
    o, batch = made.objective, t.batch(2)
    levels = [
        o._noised(t.turn(CRITIC, step), Scored(batch, batch.clip, 0))[1] for step in (0, 1, 2)
    ]
    assert not torch.equal(levels[0], levels[1]) and not torch.equal(levels[1], levels[2])


def test_a_run_that_was_stopped_between_two_looks_at_a_roll_out_ends_as_a_whole_one(tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 4:
            raise Killed

    whole, half = trainer(tmp_path / "whole", 5), trainer(tmp_path / "half", 5)
    whole.fit()
    with pytest.raises(Killed):
        half.fit(kill)
    rest = trainer(tmp_path / "half", 5)
    rest.fit()
    for name, role in whole.roles.items():
        found = rest.roles[name].weights()
        assert all(torch.equal(found[n], v) for n, v in role.weights().items()), name


def test_objectives_without_a_rule_draw_at_every_step():
    assert drawn_at(t.objective("flow-matching"), "teacher", 7) == 7


def test_a_stage_begins_with_the_weights_it_is_given(tmp_path):
    still = ["teacher.trainer.steps=1", 'teacher.trainer.roles={"teacher": {"learning_rate": 0}}']
    chain = lamp_chain(tmp_path / "run", with_settings(lamp_recipe(), still))
    given = {n: v + 0.5 for n, v in chain.make().state_dict().items()}
    write_tensors(tmp_path / "given.safetensors", given)
    begin = msgspec.structs.replace(chain.recipe.teacher, begin=str(tmp_path / "given.safetensors"))
    for told, shipped in ((begin, None), (with_begin(chain, "shipped"), lambda: given)):
        recipe = msgspec.structs.replace(chain.recipe, teacher=told)
        own = attrs.evolve(chain, directory=tmp_path / f"{shipped is None}", recipe=recipe)
        path = attrs.evolve(own, shipped=shipped).teacher()
        assert all(torch.equal(v, given[n]) for n, v in read_tensors(path).items())


def test_a_pipeline_without_weights_ships_none(tmp_path):
    chain = lamp_chain(tmp_path, with_settings(lamp_recipe(), ["teacher.begin=shipped"]))
    with pytest.raises(ConfigError, match="comes without weights"):
        chain.teacher()


def with_begin(chain, where):
    return msgspec.structs.replace(chain.recipe.teacher, begin=where)


def test_steady_attention_does_not_race_and_agrees_with_the_fused_kernel():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 3, 8, generator=g) for _ in range(3))
    steady, fused = Attention("steady"), Attention("sdpa")
    assert torch.equal(steady(q, k, v), fused(q, k, v))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            steady(q, k, v).float(), fused(q, k, v).float(), atol=2e-2, rtol=2e-2
        )
    assert not steady.winners
