"""A pipeline that cannot fit is refused before anything is loaded, and the arithmetic is shown."""

import pytest
from af_core import capacity
from af_core.capacity import free_bytes, require_memory
from af_core.errors import PipelineError
from af_core.graph.explain import explain
from af_core.graph.resolve import open_pipeline
from af_core.pipeline import load


def needed():
    report = explain(open_pipeline("toon")).memory
    return report.weights_bytes + report.stream_bytes


def test_a_pipeline_is_refused_exactly_when_it_is_larger_than_what_is_free(monkeypatch):
    pipeline, size = open_pipeline("toon"), needed()
    monkeypatch.setattr(capacity, "free_bytes", lambda device: size)
    require_memory(pipeline, "cpu")
    monkeypatch.setattr(capacity, "free_bytes", lambda device: size - 1)
    with pytest.raises(PipelineError, match="toon at 128x128 does not fit"):
        require_memory(pipeline, "cpu")


def test_the_refusal_names_every_node_that_holds_memory_and_what_is_free(monkeypatch):
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 1_500_000)
    with pytest.raises(PipelineError) as caught:
        load("toon")
    (problem,) = caught.value.problems
    assert problem.code == "too_little_memory"
    assert problem.got == "1.5 MB free"
    for node in ("denoiser", "decoder", "audio_encoder"):
        assert f"{node} " in problem.expected


def test_unknown_memory_refuses_nothing(monkeypatch):
    monkeypatch.setattr(capacity, "free_bytes", lambda device: None)
    require_memory(open_pipeline("toon"), "cpu")


@pytest.mark.parametrize(
    ("limit", "free"), [("3000000", 1_000_000), ("max", 8_000_000), (None, 8_000_000)]
)
def test_the_tighter_of_system_and_container_counts(monkeypatch, tmp_path, limit, free):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable: 7812 kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(capacity, "_MEMINFO", meminfo)
    monkeypatch.setattr(capacity, "_CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("2000000\n")
        (tmp_path / "memory.stat").write_text("anon 2000000\nfile 0\n")
    assert free_bytes("cpu") == pytest.approx(free, rel=0.001)


def test_files_that_a_container_has_read_are_not_in_the_way(monkeypatch, tmp_path):
    told = "anon 1000000\nfile 8500000\ninactive_file 6000000\nactive_file 2000000\n"
    for name, text in (("max", "10000000"), ("current", "9500000"), ("stat", told)):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(capacity, "_CGROUP", tmp_path)
    assert free_bytes("cpu") == 8_500_000


def test_no_other_device_is_guessed():
    assert free_bytes("meta") is None
