"""What is told of a worker while it runs: metrics by name, spans, logs, times of stages."""

import gc
import json
import logging
import re
import time

import attrs
import msgspec
import numpy as np
import pytest
import torch
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient
from af_runtime.client.link import Link
from af_runtime.client.values import BlockDrawn
from af_runtime.errors import UnavailableError
from af_runtime.health import Health
from af_runtime.logs import JsonLines, TextLines, set_up_logs
from af_runtime.metrics import Metrics
from af_runtime.observing import DrawnBlock, Watching
from af_runtime.pauses import noting_pauses
from af_runtime.stage_times import Span, StageTimes
from af_runtime.tracing import block_traces
from prometheus_client.parser import text_string_to_metric_families
from serving import serving, speech
from workspace import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
AS_AGREED = """
af_sessions af_sessions_opened_total af_sessions_rejected_total af_session_duration_seconds
af_time_to_first_frame_seconds af_interrupt_to_silence_seconds af_audio_to_photon_seconds
af_block_duration_seconds af_block_deadline_slack_seconds af_deadline_misses_total af_video_rtf
af_frames_total af_frames_dropped_total af_audio_underruns_total af_av_skew_seconds
af_queue_depth af_credit_available af_lead_seconds
af_stage_up af_stage_restarts_total af_stage_heartbeat_age_seconds
af_gpu_memory_bytes af_gc_pause_seconds af_zmq_handshake_failures_total af_build_info
""".split()
"""Names that dashboards of other services of this kind expect."""


def test_every_metric_is_documented_and_every_documented_metric_exists():
    listed = re.findall(r"^\| `(af_\w+)`", OPERATIONS, re.M)
    assert sorted(listed) == Metrics().names()
    assert set(AS_AGREED) <= set(listed)


def test_every_metric_is_documented_with_its_labels():
    rows = {
        line.split("`")[1]: line for line in OPERATIONS.splitlines() if line.startswith("| `af_")
    }
    families = [one for one in vars(Metrics()).values() if hasattr(one, "_labelnames")]
    assert len(families) == len(rows)
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family._type, "")
        listed = rows[family._name + suffix].split("|")[2].strip()
        assert listed == ", ".join(family._labelnames), family._name


def values(page):
    """Return the samples of a page by name and labels."""
    families = text_string_to_metric_families(page.decode())
    return {(s.name, *sorted(s.labels.values())): s.value for f in families for s in f.samples}


def test_the_page_tells_of_a_session_that_speaks_and_is_interrupted():
    health = Health()
    with serving() as service, service.client() as client:
        health.server = service.server
        with client.open("ada", pacing="fast") as stream:
            stream.push_audio(speech(16_000), 16_000)
            for _ in range(4):
                stream.next_frame(10)
            told = values(health._metrics())
            assert told["af_sessions", "active"] == 1 and told["af_sessions", "draining"] == 0
            assert told["af_credit_available", "video"] > 0
            stream.interrupt()
            stream.push_audio(speech(6_400), 16_000)
            stream.finish()
            spoken = sum(frame.num_samples > 0 for frame in stream)
        told = values(health._metrics())
    assert spoken == 10
    assert told["af_interrupt_to_silence_seconds_count",] == told["af_interrupts_total",] == 1
    assert told["af_audio_to_photon_seconds_count",] == told["af_frames_total", "speech"] >= 14
    assert told["af_av_skew_seconds_sum",] == 0 and told["af_av_skew_seconds_count",] >= 14
    stages = {k[-1] for k in told if k[0] == "af_block_duration_seconds_count"}
    assert stages >= {"avatar", "audio_encoder", "denoiser", "decoder"}
    assert told["af_stage_up", "avatar"] == 1 and told["af_video_rtf",] > 0
    assert any(key[0] == "af_build_info" for key in told)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_stages_are_timed_where_they_work_and_nowhere_else():
    clock = Clock()

    class Slow:
        name = "of the inner one"

        def open(self, opening):
            return None

        def step(self, state, inputs):
            clock.now += 2.0
            return {}, state

        def flush(self, state):
            clock.now += 1.0
            return {}, state

    avatar = attrs.evolve(tiny_avatar(), runners={"slow": Slow(), "other": Slow()})
    times = StageTimes(avatar, clock)
    slow, other = times.avatar.runners.values()
    clock.now = 10.0
    slow.step(None, {})
    other.step(None, {})
    slow.flush(None)
    assert times.taken() == {"slow": Span(10.0, 3.0), "other": Span(12.0, 2.0)}
    assert times.taken() == {}
    assert times.avatar.info is avatar.info


def test_clients_that_ask_are_told_how_each_block_was_drawn_and_others_are_not():
    with serving() as service:
        for features, expected in ((("stats",), True), ((), False)):
            link = Link(service.transport.connect(), "inproc", features=features)
            with AvatarClient(link=link) as client, client.open("ada", pacing="fast") as stream:
                stream.push_audio(speech(16_000), 16_000)
                stream.finish()
                events = []
                for _ in stream:
                    events += stream.events()
            blocks = [one for one in events if isinstance(one, BlockDrawn)]
            assert bool(blocks) == expected
            if expected:
                assert sum(one.num_frames for one in blocks) == 25
                assert all(sum(one.stage_s.values()) <= one.draw_s + 1e-4 for one in blocks)


def test_pauses_of_the_collector_are_noted_and_only_while_asked():
    noted = []
    with noting_pauses(lambda generation, seconds: noted.append((generation, seconds))):
        gc.collect(1)
        gc.collect()
    gc.collect()
    assert [generation for generation, _ in noted if generation in (1, 2)][-2:] == [1, 2]
    assert all(seconds >= 0 for _, seconds in noted)
    assert not any("noting_pauses" in repr(one) for one in gc.callbacks)


@pytest.fixture
def spans():
    """The spans that an SDK exports, if one is installed."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    yield exporter
    trace._TRACER_PROVIDER = before


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_block_is_a_span_with_its_stages_inside_and_belongs_to_the_clients_trace(spans):
    trace = block_traces()(PARENT)
    now = time.perf_counter()
    inside = {"denoiser": Span(now - 0.03, 0.02), "decoder": Span(now - 0.01, 0.01)}
    trace.block(DrawnBlock(4, seconds=0.03, wait_s=0.001, spans=inside))
    made = {span.name: span for span in spans.get_finished_spans()}
    assert set(made) == {"af.block", "af.stage.denoiser", "af.stage.decoder"}
    block = made["af.block"]
    assert f"{block.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{block.parent.span_id:016x}" == PARENT.split("-")[2]
    assert block.attributes["af.frames"] == 4
    assert block.end_time - block.start_time == pytest.approx(31e6, rel=0.01)
    for name in ("denoiser", "decoder"):
        stage = made[f"af.stage.{name}"]
        assert stage.parent.span_id == block.context.span_id
        assert stage.end_time - stage.start_time == round(inside[name].seconds * 1e9)
        assert block.start_time - 5e6 <= stage.start_time < block.end_time


def test_a_worker_makes_a_trace_of_every_block(spans):
    pytest.importorskip("opentelemetry")
    with (
        serving(watching=Watching(traces=block_traces())) as service,
        service.client() as client,
        client.open("ada", pacing="fast") as stream,
    ):
        stream.push_audio(speech(16_000), 16_000)
        stream.finish()
        assert len(list(stream)) == 25
    blocks = [span for span in spans.get_finished_spans() if span.name == "af.block"]
    assert [span.attributes["af.block"] for span in blocks] == list(range(len(blocks)))
    assert sum(span.attributes["af.frames"] for span in blocks) == 25


def test_traces_without_the_api_are_a_plain_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(UnavailableError, match="af-runtime\\[otel\\]"):
        block_traces()


def record(text, *args, **extra):
    made = logging.LogRecord("af_runtime.server", logging.WARNING, "f.py", 1, text, args, None)
    vars(made).update(extra)
    return made


def test_a_line_of_json_holds_message_level_and_extras():
    line = JsonLines().format(record("refused %s", "x", code="admit.full", session="s"))
    told = msgspec.json.decode(line)
    assert "\n" not in line
    assert told["message"] == "refused x" and told["level"] == "warning"
    assert (told["code"], told["session"]) == ("admit.full", "s")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", told["time"])


MEDIA = [np.full(640, 0.25, np.float32), torch.full((3, 4), 0.25), b"\x11" * 99, memoryview(b"xy")]


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
@pytest.mark.parametrize("media", MEDIA, ids=lambda m: type(m).__name__)
def test_no_line_holds_media_wherever_it_comes_from(formatter, media):
    line = formatter.format(record("got %s", media, sound=media, deep={"a": [media]}))
    assert "0.25" not in line and "x11" not in line and "xy" not in line
    assert "bytes>" in line or "float32" in line


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_a_clients_word_cannot_begin_a_line_of_its_own(formatter):
    line = formatter.format(record("no session %s", "a\nroot: all is well\r\x1b[2J", session="\n"))
    assert "\n" not in line and "\r" not in line and "\x1b" not in line


def test_logs_go_to_stderr_in_the_format_that_was_asked_for(capsys):
    logger = logging.getLogger("af_runtime")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        set_up_logs("json")
        logging.getLogger("af_runtime.server").info("session opened", extra={"session": "s"})
        told = json.loads(capsys.readouterr().err)
        assert (told["message"], told["session"]) == ("session opened", "s")
        set_up_logs("text")
        logging.getLogger("af_runtime.server").info("session opened", extra={"session": "s"})
        assert capsys.readouterr().err == "session opened session=s\n"
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
