"""Adapters: begin as nothing, merge to what was trained, move alone, and are saved small."""

import pytest
import tiny_training as t
import torch
from af_core.errors import ConfigError
from af_train import adapters
from af_train.adapters import AdapterConfig, MissingPeftError, adapt, merged, trained
from af_train.trainer import RoleConfig

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = AdapterConfig(rank=2, alpha=3.0)
RATE = RoleConfig(learning_rate=1e-2, average=0.5, adapter=SMALL)


def said(network, batch):
    """What a network predicts for a batch."""
    from af_train.masks import bidirectional
    from af_train.networks import predict

    sigma = torch.full(batch.clip.shape[:2], 0.5)
    plan = bidirectional(batch.num_frames)
    with torch.no_grad():
        return predict(network, batch.clip, sigma, t.conditions(batch), plan)


def shaken(network):
    """Give every trained parameter a random push."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=g)
    return network


def test_a_fresh_adapter_changes_nothing_and_a_merged_one_says_the_same():
    batch, plain = t.batch(), t.tiny.make(layers=2)
    before = said(plain, batch)
    adapted = adapt(t.tiny.make(layers=2), SMALL)
    assert torch.equal(said(adapted, batch), before)
    after = said(shaken(adapted), batch)
    assert not torch.allclose(after, before, atol=1e-2)
    plain.load_state_dict(merged(adapted.state_dict(), SMALL))
    torch.testing.assert_close(said(plain, batch), after, atol=2e-5, rtol=1e-4)


def test_merging_is_what_peft_merges():
    adapted = shaken(adapt(t.tiny.make(layers=2), SMALL))
    ours = merged(adapted.state_dict(), SMALL)
    for module in adapted.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    theirs = {n.replace(".base_layer.", "."): v for n, v in adapted.state_dict().items()}
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)


def test_only_adapters_and_what_is_new_are_trained(tmp_path):
    made = t.trainer(tmp_path, "dmd", RATE, steps=2)
    before = {n: p.clone() for n, p in made.roles["student"].network.named_parameters()}
    made.fit()
    moved = {
        n
        for n, p in made.roles["student"].network.named_parameters()
        if not torch.equal(p, before[n])
    }
    assert moved and all("lora_" in n or n.startswith(SMALL.fully) for n in moved)
    assert any("lora_B" in n for n in moved) and any(n.startswith("audio_proj") for n in moved)
    layers = {n.split(".lora_")[0] for n in moved if "lora_" in n}
    assert all(n.endswith(SMALL.targets) for n in layers)


def test_checkpoints_hold_what_moves_and_runs_go_on_from_them(tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 4:
            raise Killed

    whole = t.trainer(tmp_path / "whole", "dmd", RATE)
    whole.fit()
    with pytest.raises(Killed):
        t.trainer(tmp_path / "half", "dmd", RATE).fit(kill)
    rest = t.trainer(tmp_path / "half", "dmd", RATE)
    rest.fit()
    for name, role in whole.roles.items():
        found = rest.roles[name].weights()
        assert all(torch.equal(found[n], v) for n, v in role.weights().items()), name
    kept = whole._state()["student"]["network"]
    assert "lora_" in "".join(kept) and not any("base_layer" in n for n in kept)
    plain = t.tiny.make(layers=2).state_dict()
    assert whole.roles["student"].weights().keys() == plain.keys()


def test_what_was_trained_is_a_part_of_the_whole():
    state = adapt(t.tiny.make(layers=2), SMALL).state_dict()
    part = trained(state, SMALL)
    assert 0 < sum(v.numel() for v in part.values()) < sum(v.numel() for v in state.values()) / 2
    assert any("lora_A" in n for n in part) and not any("base_layer" in n for n in part)


def test_all_processes_begin_with_the_same_adapter():
    one, two = (adapt(t.tiny.make(layers=2), SMALL).state_dict() for _ in range(2))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="rank=0"):
        AdapterConfig(rank=0)
    with pytest.raises(ConfigError, match="nothing"):
        adapt(t.tiny.make(layers=2), AdapterConfig(targets=("nothing",)))
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(MissingPeftError, match=r"af-train\[lora\]"):
        adapt(t.tiny.make(layers=2), SMALL)
