"""Guidance by voice and by prompt: the formulas, the passes they take, what a store says of it."""

import attrs
import pytest
import tiny_training as t
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import ConfigError
from af_train.backfill import Backfill, BackfillConfig
from af_train.guidance import Guidance
from af_train.networks import Conditions
from af_train.objectives.flow_matching import dropped
from af_train.objectives.options import FlowMatchingOptions
from af_train.ode_store import StoreError, TrajectoryStore

pytestmark = pytest.mark.usefixtures("one_thread")

GIVEN = Conditions(
    torch.zeros(1, 1, 1, 2, 2), torch.full((1, 4, 1), 3.0), torch.full((1, 2, 1), 5.0)
)
NEGATIVE = torch.full((1, 2, 1), -7.0)


def asked():
    """A teacher that answers 100 x (what it hears) + (what it reads), and counts."""
    calls = []

    def ask(given):
        calls.append(given)
        read = given.text.mean() if given.text is not None else torch.tensor(0.0)
        return 100 * given.rows.mean() + read

    return ask, calls


@pytest.mark.parametrize(
    ("audio", "text", "passes"),
    [(1, 1, 1), (1.5, 1.5, 2), (2, 1, 2), (1, 3, 3), (2, 3, 3)],
)
def test_voice_and_prompt_are_weighed_apart(audio, text, passes):
    ask, calls = asked()
    found = Guidance(audio, text, NEGATIVE)(ask, GIVEN)
    # this teacher is linear in both, so each difference is one condition's own
    wanted = -7 + text * (5 + 7) + audio * 300
    assert float(found) == pytest.approx(wanted) and len(calls) == passes


def test_without_text_there_is_one_weight():
    ask, calls = asked()
    given = attrs.evolve(GIVEN, text=None)
    assert float(Guidance(1.5, 4.0)(ask, given)) == pytest.approx(450) and len(calls) == 2
    assert float(Guidance(1.0, 4.0)(ask, given)) == pytest.approx(300)


def test_where_nothing_is_negative_zeros_are_read():
    ask, _ = asked()
    assert float(Guidance(0.0, 0.0)(ask, GIVEN)) == 0
    assert float(Guidance(0.0, 0.0, NEGATIVE)(ask, GIVEN)) == -7


@attrs.frozen
class Words:
    """A text encoder: every letter of the prompt counts."""

    def encode(self, prompts):
        return torch.stack([torch.full((3, 7), float(len(p))) for p in prompts])


@pytest.mark.parametrize("name", ["flow-matching", "diffusion-forcing", "dmd", "self-forcing"])
def test_a_negative_prompt_needs_what_encodes_it(name):
    with pytest.raises(ConfigError, match="no text_encoder"):
        t.objective(name, negative_prompt="blurred")
    where = t.context()
    where = attrs.evolve(where, stages={**where.stages, "text_encoder": Words()})
    made = t.objective(name, where, negative_prompt="blurred")
    negative = made.negative if hasattr(made, "negative") else made.guidance.negative
    assert torch.equal(negative, torch.full((1, 3, 7), 7.0))


def test_prompts_that_are_dropped_are_the_negative_one():
    batch = t.batch(400, text=True)
    batch = attrs.evolve(batch, text=batch.text.expand(400, -1, -1))
    negative = torch.full((1, 3, 7), 9.0)
    text = dropped(FlowMatchingOptions(text_dropout=0.3), batch, negative).text
    gone = (text == 9).all(2).all(1)
    assert 0.2 < gone.float().mean() < 0.4
    assert torch.equal(text[~gone], batch.text[~gone])


def test_the_teacher_is_guided_and_the_student_moves_with_it():
    where = t.context(slots=2)
    fields = {}
    for weights in (
        {"guidance_weight": 2.0},
        {"guidance_weight": 2.0, "text_guidance_weight": 1.0},
    ):
        made = t.objective("dmd", where, mix_self_forcing=0.0, **weights)
        models = {
            role: t.tiny.make(text=True, layers=2, seed=i)
            for i, role in enumerate(("student", "critic", "teacher"))
        }
        made.backward(t.turn("student"), models, t.batch(text=True))
        fields[len(weights)] = t.gradients(models["student"])
    assert any(not torch.equal(fields[1][n], fields[2][n]) for n in fields[1])


def test_a_store_says_how_it_was_guided_and_refuses_to_pass_for_another(tmp_path):
    teacher = t.tiny.make(text=True, layers=2)
    ladder = (1.0, 0.5)
    config = BackfillConfig(2, 2, 1.0, 2.0, text_guidance_weight=3.0, negative_prompt="blurred")
    states = {}
    for negative in (None, torch.full((1, 3, 7), 2.0)):
        job = Backfill(
            teacher, t.Clips(text=True), ladder, config, DualAnchorCache(), t.BLOCK, negative
        )
        states[negative is None] = job.states(t.Clips(text=True).draw((1,)))
    assert not torch.equal(states[True], states[False])
    list(job.run(tmp_path))
    header = TrajectoryStore.open(tmp_path, text_guidance_weight=3.0).header
    assert header.negative_prompt == "blurred"
    with pytest.raises(StoreError, match="negative_prompt"):
        TrajectoryStore.open(tmp_path, negative_prompt=None)
