"""The trainer: resumes to the bit, adds micro-batches up, moves only whose turn it is."""

import json

import attrs
import pytest
import tiny_training as t
import torch
from af_core.errors import ConfigError
from af_train.checkpoints import newest
from af_train.loop import TrainingDivergedError
from af_train.parallel import World
from af_train.trainer import OutOfMemoryError, RoleConfig, Trainer, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = RoleConfig(
    learning_rate=1e-3, average=0.9, average_from=1, warmup_updates=3, final_learning_rate_ratio=0.1
)


def trainer(directory, name="dmd", **options):
    return t.trainer(directory, name, RATE, **options)


def everything(made):
    state = {}
    for name, role in made.roles.items():
        state |= {f"{name}/{n}": v for n, v in role.weights().items()}
        state |= {f"{name}/now/{n}": p.detach() for n, p in role.network.named_parameters()}
        for i, one in role.optimiser.state_dict()["state"].items():
            state |= {f"{name}/{i}/{n}": v for n, v in one.items()}
    return state


class Killed(Exception):
    pass


def kill(step):
    if step == 4:
        raise Killed


@pytest.mark.parametrize("name", ["dmd", "ode-regression"])
def test_k_and_k_steps_are_2k_steps(tmp_path, name):
    whole = trainer(tmp_path / "whole", name)
    whole.fit()
    with pytest.raises(Killed):
        trainer(tmp_path / "half", name).fit(kill)
    rest = trainer(tmp_path / "half", name)
    rest.fit()
    assert rest.step == 6 and {n: r.updates for n, r in rest.roles.items()} == {
        n: r.updates for n, r in whole.roles.items()
    }
    wanted, found = everything(whole), everything(rest)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key
    fresh = everything(trainer(tmp_path / "new", name))
    assert any(not torch.equal(fresh[k], wanted[k]) for k in fresh if "/now/" in k)


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 4), (2, 2)])
def test_n_micro_batches_of_b_are_one_of_n_b(tmp_path, batch, accumulate):
    whole = trainer(tmp_path / "whole", batch_size=4, steps=1)
    parts = trainer(tmp_path / "parts", batch_size=batch, accumulate=accumulate, steps=1)
    for made in (whole, parts):
        made.fit()
    found = everything(parts)
    for key, value in everything(whole).items():
        if "/now/" in key:
            torch.testing.assert_close(found[key], value, atol=2e-4, rtol=0)
        elif key.endswith("exp_avg"):
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-3)


def test_the_teacher_stays_and_the_student_moves_in_its_turn_only(tmp_path):
    made = trainer(tmp_path, steps=3)
    teacher = {n: p.clone() for n, p in made.networks["teacher"].named_parameters()}
    seen = []
    made.fit(lambda step: seen.append({n: r.updates for n, r in made.roles.items()}))
    assert seen == [{"student": 1, "critic": n} for n in (1, 2, 3)]
    for name, p in made.networks["teacher"].named_parameters():
        assert torch.equal(p, teacher[name]) and p.grad is None
    owned = [
        {id(p) for g in r.optimiser.param_groups for p in g["params"]} for r in made.roles.values()
    ]
    assert not owned[0] & owned[1]


def test_the_average_begins_as_a_copy_and_follows_updates_of_its_role(tmp_path):
    made = trainer(tmp_path, steps=7)
    before, name = [], "head.head.weight"
    made.fit(lambda step: before.append(made.roles["student"].average[name].clone()))
    assert all(torch.equal(a, before[0]) for a in before[1:5]), "critic-only steps"
    weight = made.networks["student"].get_parameter(name)
    assert not torch.equal(before[5], before[4])
    torch.testing.assert_close(before[6], before[4].lerp(weight.detach(), 0.1))


def test_a_step_that_diverges_updates_nothing_and_names_the_last_good_checkpoint(tmp_path):
    made = trainer(tmp_path, "flow-matching", steps=5, save_every=2)
    good = {}

    def poison(step):
        if step == 2:
            good.update({n: p.clone() for n, p in made.networks["teacher"].named_parameters()})
        if step == 3:
            made.source = Poisoned()

    class Poisoned(t.Clips):
        def draw(self, seeds):
            batch = super().draw(seeds)
            return attrs.evolve(batch, clip=batch.clip * float("nan"))

    with pytest.raises(TrainingDivergedError, match=r"Step 3.*teacher.*000000002 is whole"):
        made.fit(poison)
    again = trainer(tmp_path, "flow-matching", steps=5)
    again.resume()
    assert again.step == 2
    for name, p in again.networks["teacher"].named_parameters():
        assert torch.equal(p, good[name])


def test_old_checkpoints_go_and_unfinished_ones_do_not_count(tmp_path):
    made = trainer(tmp_path, "flow-matching", steps=4, save_every=1, keep=2)
    made.fit()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["000000003", "000000004"]
    (tmp_path / "checkpoints" / "000000009").mkdir()
    assert newest(tmp_path).name == "000000004"


def test_a_history_is_kept_in_lines(tmp_path):
    trainer(tmp_path, steps=2).fit()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"student/loss", "critic/loss", "critic/gradient"} <= lines[0].keys()
    assert "student/loss" not in lines[1]


def test_another_number_of_samples_is_refused_on_resume(tmp_path):
    trainer(tmp_path, "flow-matching", steps=1).fit()
    with pytest.raises(ConfigError, match="1 samples an update; 1 processes x 3 micro-batches"):
        trainer(tmp_path, "flow-matching", accumulate=3).fit()
    with pytest.raises(ConfigError, match="trained teacher, not student"):
        trainer(tmp_path, "ode-regression").fit()


def test_roles_without_a_network_or_a_rate_are_named(tmp_path):
    objective, config = t.objective("dmd"), TrainerConfig(1, {"student": RATE})
    with pytest.raises(ConfigError, match="networks for critic, teacher"):
        Trainer(objective, t.networks("student"), t.Clips(), config, tmp_path)
    with pytest.raises(
        ConfigError, match=r"trains critic, and trainer.roles says only how student moves"
    ):
        Trainer(objective, t.networks("student", "critic", "teacher"), t.Clips(), config, tmp_path)


@pytest.mark.parametrize("name", ["dmd", "diffusion-forcing"])
def test_computing_activations_again_changes_no_gradient(name):
    objective, b = t.objective(name), t.batch()
    found = []
    for recompute in (False, True):
        models = t.networks(*objective.roles, *objective.frozen)
        models["student"].double().recompute = recompute
        for other in models.values():
            other.double()
        doubled = {n: getattr(b, n).double() for n in ("portrait", "rows", "clip")}
        objective.backward(t.turn("student"), models, attrs.evolve(b, **doubled))
        found.append(t.gradients(models["student"]))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-12, rtol=1e-10)


def test_bfloat16_trains_float32_weights(tmp_path):
    made = trainer(tmp_path, steps=1, precision="bfloat16")
    made.fit()
    assert all(p.dtype == torch.float32 for p in made.networks["student"].parameters())
    assert World().leads


def test_out_of_memory_names_what_to_turn(tmp_path):
    class Greedy(torch.nn.Module):
        def denoise(self, *inputs):
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    made = trainer(tmp_path, "flow-matching", batch_size=2)
    made.networks["teacher"] = Greedy()
    with pytest.raises(OutOfMemoryError, match=r"2 samples at once.*batch_size.*recompute"):
        made.fit()


def test_an_objective_that_would_teach_nothing_is_refused(tmp_path):
    class Forgets:
        roles, frozen, said = ("student",), (), None

        def turns(self, step):
            return self.roles

        def backward(self, turn, networks, batch):
            return self.said

    made = trainer(tmp_path, "ode-regression")
    made.objective = Forgets()
    with pytest.raises(ConfigError, match=r"Forgets.backward must return its scalars, 'loss'"):
        made.fit()
    Forgets.said = {"loss": torch.zeros(())}
    with pytest.raises(ConfigError, match=r"left no gradient in the student: .* turn.share"):
        made.fit()
