"""The graph: edges are checked when connected, and a refusal says what to write instead."""

import pytest
from af_core.errors import PipelineConnectError, PipelineError
from af_core.graph import Graph, Node
from af_core.ports import VARYING, Declaration, Format, Port, intersection, mismatches

VIDEO = Format("frames", 25, "uint8", "THWC", 3, 64, 64)
SPEECH = Format("audio", 16_000, "float32", "T", chunk=VARYING)


def node(name, inputs=(), outputs=(), **more):
    ports = [
        tuple(Port(n, f) if isinstance(f, Format) else f for n, f in s) for s in (inputs, outputs)
    ]
    return Node(name, Declaration(inputs=ports[0], outputs=ports[1], **more))


@pytest.fixture
def graph():
    return (
        Graph()
        .add(node("mic", outputs=[("samples", SPEECH)]))
        .add(
            node(
                "avatar", [("samples", Format("audio", 16_000))], [("frames", VIDEO)], block_ms=160
            )
        )
        .add(node("mark", [("frames", VIDEO)], [("frames", VIDEO)], lookahead_ms=40))
    )


def only(error):
    assert len(error.value.problems) == 1
    return error.value.problems[0]


def test_fitting_ports_connect_and_the_old_graph_is_unchanged(graph):
    joined = graph.connect("mic.samples", "avatar.samples").connect("avatar.frames", "mark.frames")
    assert len(joined.edges) == 2 and len(graph.edges) == 0
    assert [n.name for n in joined.order()] == ["mic", "avatar", "mark"]
    assert joined.problems() == []


def test_a_wrong_edge_shows_both_sides_the_fields_and_the_line_to_write(graph):
    with pytest.raises(PipelineConnectError) as error:
        graph.connect("mic.samples", "mark.frames")
    problem = only(error)
    assert problem.code == "format_mismatch"
    assert "frames uint8 THWC 64x64x3 25 Hz" in problem.expected
    assert "audio float32 T 16000 Hz" in problem.got
    assert "media is audio, must be frames" in problem.message
    assert problem.suggestion == 'graph = graph.connect("avatar.frames", "mark.frames")'
    assert problem.suggestion in str(error.value)


FIELDS = {
    "media": ("events", "frames"),
    "rate_hz": (30, 25),
    "dtype": ("float32", "uint8"),
    "layout": ("NCTHW", "THWC"),
    "channels": (4, 3),
    "height": (32, 64),
    "width": (32, 64),
    "chunk": (1, 4),
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_of_a_format_is_checked(field):
    import attrs

    made, taken = FIELDS[field]
    want = attrs.evolve(VIDEO, **{field: taken})
    (wrong,) = mismatches(attrs.evolve(VIDEO, **{field: made}), want)
    assert (wrong.field, wrong.got, wrong.expected) == (field, str(made), str(taken))
    assert mismatches(attrs.evolve(VIDEO, **{field: taken}), want) == []


def test_an_input_may_accept_several_values():
    taken = Format("frames", dtype=("uint8", "float32"))
    assert mismatches(VIDEO, taken) == []
    assert intersection(VIDEO, taken) == {"media": "frames", "dtype": "uint8"}


def test_a_varying_chunk_does_not_fit_an_input_of_fixed_chunk():
    wrong = mismatches(SPEECH, Format("audio", 16_000, chunk=640))
    assert [w.field for w in wrong] == ["chunk"]
    assert mismatches(SPEECH, Format("audio", 16_000)) == []


def test_a_misspelt_node_or_port_gets_the_closest_and_the_ports_there_are(graph):
    with pytest.raises(PipelineConnectError, match="Did you mean 'avatar'"):
        graph.connect("avatr.frames", "mark.frames")
    with pytest.raises(PipelineConnectError) as error:
        graph.connect("avatar.frame", "mark.frames")
    assert "avatar.frames: frames uint8" in only(error).expected
    assert only(error).suggestion == "avatar.frames"


def test_an_edge_that_closes_a_loop_is_refused_and_the_loop_is_shown(graph):
    graph = graph.add(node("other", [("frames", VIDEO)], [("frames", VIDEO)]))
    graph = graph.connect("mark.frames", "other.frames")
    with pytest.raises(PipelineConnectError) as error:
        graph.connect("other.frames", "mark.frames")
    assert only(error).code == "cycle"
    assert "mark" in only(error).got and "other" in only(error).got


def test_an_input_takes_one_edge_but_an_output_feeds_many(graph):
    graph = graph.add(node("file", [("frames", VIDEO)])).connect("avatar.frames", "file.frames")
    graph = graph.connect("avatar.frames", "mark.frames")
    with pytest.raises(PipelineConnectError, match=r"already fed by .avatar\.frames"):
        graph.connect("mark.frames", "file.frames")


def test_a_missing_input_names_node_port_and_a_line_that_would_feed_it(graph):
    problems = graph.connect("avatar.frames", "mark.frames").problems()
    assert [p.code for p in problems] == ["missing_input"]
    assert problems[0].path == "avatar.samples"
    assert 'graph.connect("mic.samples", "avatar.samples")' in problems[0].suggestion


def test_an_optional_input_may_stay_open():
    assert Graph().add(node("a", [("text", Port("text", VIDEO, required=False))])).problems() == []


def test_two_nodes_of_one_name_are_refused(graph):
    with pytest.raises(PipelineError, match="mark: Two nodes"):
        graph.add(node("mark"))


def test_delay_is_the_sum_along_the_slowest_way(graph):
    graph = graph.add(node("both", [("samples", Format("audio")), ("frames", VIDEO)], block_ms=5))
    for source, target in (
        ("mic.samples", "avatar.samples"),
        ("avatar.frames", "mark.frames"),
        ("mark.frames", "both.frames"),
        ("mic.samples", "both.samples"),
    ):
        graph = graph.connect(source, target)
    assert [graph.delay_ms(n) for n in ("mic", "avatar", "mark", "both")] == [0, 160, 200, 205]


def test_an_input_can_limit_the_look_ahead_before_it(graph):
    late = Port("frames", VIDEO, max_delay_ms=100)
    graph = graph.add(node("live", [("frames", late)]))
    graph = graph.connect("mic.samples", "avatar.samples").connect("avatar.frames", "live.frames")
    (problem,) = [p for p in graph.problems() if p.code == "too_late"]
    assert (problem.expected, problem.got) == ("at most 100 ms", "160 ms")
