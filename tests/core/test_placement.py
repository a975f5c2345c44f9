"""Which process runs what, and how a stream travels between them."""

from itertools import pairwise

import pytest
from af_core.errors import PipelineError
from af_core.graph import check_pipeline, open_pipeline
from af_core.graph.placement import AT_OPEN, in_three_stages, legs, placed, working_processes
from af_core.graph.spec import ProcessSpec
from af_core.pipeline import build
from af_core.plugins import load_catalog
from af_core.testing import tiny_plugin
from hypothesis import given
from hypothesis import strategies as st

OWN = {
    "nodes.trail": {"use": "tiny_trail", "inputs": {"frames": "decoder.frames"}},
    "nodes.more": {"use": "tiny_trail", "inputs": {"frames": "trail.frames"}},
    "nodes.other": {"use": "tiny_trail", "inputs": {"frames": "decoder.frames"}},
    "output": "more.frames",
}
NODES = ("audio_encoder", "image_encoder", "denoiser", "decoder", "trail", "more", "other")


def tiny(**overrides):
    catalog = load_catalog(candidates=[], extra=[("tiny", tiny_plugin)])
    return open_pipeline("tiny", {**OWN, **overrides}, catalog)


PIPELINE = tiny()


@given(st.lists(st.sampled_from("xyz"), min_size=len(NODES), max_size=len(NODES)))
def test_every_node_runs_once_after_what_it_needs(owners):
    table = {
        name: ProcessSpec(tuple(n for n, o in zip(NODES, owners, strict=True) if o == name))
        for name in set(owners)
    }
    pipeline, made = placed(PIPELINE, table), {"audio.samples"}
    owner = dict(zip(NODES, owners, strict=True))
    order = legs(pipeline)
    ran = [node for leg in order for node in leg.nodes]
    assert sorted(ran) == sorted({*NODES} - {*AT_OPEN})
    for leg in order:
        assert {owner[node] for node in leg.nodes} == {leg.process}
        assert {*leg.inputs} <= made
        inside = {*leg.inputs}
        for node in leg.nodes:
            sources = pipeline.graph.incoming(node).values()
            assert {s for s in sources if s.partition(".")[0] not in AT_OPEN[1:]} <= inside
            inside |= {
                f"{node}.{port.name}" for port in pipeline.graph.node(node).declaration.outputs
            }
        assert {*leg.outputs} <= inside - {*leg.inputs}
        made |= {*leg.outputs}
    assert pipeline.output in made
    assert all(a.process != b.process for a, b in pairwise(order))


def test_one_process_is_one_leg():
    (leg,) = legs(placed(PIPELINE, {}))
    assert leg.inputs == ("audio.samples",) and leg.outputs == ("more.frames",)


def test_three_stages_take_nodes_of_ones_own_along():
    processes = working_processes(in_three_stages(PIPELINE))
    assert {name: set(nodes) for name, (_, nodes) in processes.items()} == {
        "audio": {"audio_encoder"},
        "denoise": {"denoiser"},
        "decode": {"image_encoder", "decoder", "trail", "more", "other"},
    }
    assert [leg.process for leg in legs(in_three_stages(PIPELINE))] == [
        "audio", "denoise", "decode",
    ]  # fmt: skip


def test_three_stages_stay_on_their_devices():
    checked = check_pipeline("avatarforcing-1.3b", with_weights=False)
    processes = working_processes(in_three_stages(checked.pipeline))
    assert {name: (device, set(nodes)) for name, (device, nodes) in processes.items()} == {
        "audio": ("cuda", {"audio_encoder"}),
        "denoise": ("cuda", {"denoiser", "text_encoder"}),
        "decode": ("cuda", {"image_encoder", "decoder"}),
    }


def test_one_named_process_for_all_that_works_is_one_process():
    avatar = build(placed(PIPELINE, {"all": ProcessSpec(NODES)}))
    assert [*avatar.runners] == list(legs(placed(PIPELINE, {}))[0].nodes)


def test_several_processes_are_refused_where_there_is_one():
    with pytest.raises(PipelineError, match=r"denoise: denoiser[\s\S]*af-runtime serve"):
        build(in_three_stages(PIPELINE))
