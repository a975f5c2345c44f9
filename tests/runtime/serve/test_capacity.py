"""How many sessions a machine holds: found by a search, kept in a file that knows what it is of."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import msgspec
import pytest
from af_core.graph import open_pipeline
from af_core.testing.tiny import tiny_avatar
from af_runtime.capacity import search
from af_runtime.capacity.record import (
    Capacity,
    Key,
    Trial,
    default_path,
    key_of,
    recall,
    save,
)
from af_runtime.capacity.search import find_capacity, measure
from af_runtime.commands.sessions import measure_sessions
from af_runtime.errors import RequestError, UnavailableError

COMMAND = Path(sys.executable).with_name("af-runtime")
KEY = Key("tiny", "0123", "a processor", 2, "cpu", 1, "2.13")


class Machine:
    """Trials of a machine on which one session takes so many milliseconds, or all together so."""

    def __init__(self, budget_ms, alone_ms, batch_ms):
        self.budget_ms, self.costs, self.tried = budget_ms, (alone_ms, batch_ms), []

    def trial(self, streams, sessions):
        took = self.costs[streams._together](sessions)
        self.tried.append((sessions, streams._together))
        return Trial(sessions, streams._together, 1, took, took, took <= streams._budget_ms)


def found(monkeypatch, alone_ms, batch_ms, most=64):
    avatar = tiny_avatar()
    machine = Machine(search.SHARE * avatar.info.block_ms, alone_ms, batch_ms)
    monkeypatch.setattr(search._Streams, "trial", lambda self, n: machine.trial(self, n))
    return find_capacity(avatar, KEY, most=most), machine.tried


@pytest.mark.parametrize("cost", [1, 7, 10, 13, 20, 47, 100, 143, 144, 200])
def test_the_search_finds_the_largest_number_that_holds(monkeypatch, cost):
    capacity, tried = found(monkeypatch, lambda n: n * cost, lambda n: n * 1000)
    assert capacity.sessions == min(64, int(144 / cost)) and not capacity.together
    assert len(set(tried)) == len(tried) <= 16


def test_drawing_as_one_is_chosen_where_it_holds_more_or_is_faster(monkeypatch):
    more, _ = found(monkeypatch, lambda n: 60 * n, lambda n: 30 * n + 20)
    assert (more.sessions, more.together) == (4, True)
    as_many, _ = found(monkeypatch, lambda n: 60 * n, lambda n: 50 * n)
    assert (as_many.sessions, as_many.together) == (2, True)
    hardly, _ = found(monkeypatch, lambda n: 60 * n, lambda n: 59 * n)
    assert (hardly.sessions, hardly.together) == (2, False)


@pytest.mark.parametrize("together", [False, True])
def test_a_trial_runs_real_streams_on_a_real_worker(together):
    trial = measure(tiny_avatar(), 3, together=together, rounds=5)
    assert (trial.sessions, trial.together, trial.rounds) == (3, together, 5)
    assert 0 < trial.p50_ms <= trial.p99_ms


def test_a_stream_that_fails_while_it_is_measured_is_an_error():
    avatar = tiny_avatar()

    class Broken:
        def encode(self, images):
            raise ValueError("no weights")

    with pytest.raises(UnavailableError, match="no weights"):
        measure(attrs.evolve(avatar, encode_portrait=Broken()), 1, together=False, rounds=1)


CAPACITY = Capacity(KEY, 3, True, 144.0, (Trial(3, True, 100, 90.0, 120.0, True),))


def test_a_capacity_is_read_for_what_it_was_measured_for_and_for_nothing_else(tmp_path):
    path = tmp_path / "new" / "tiny.json"
    assert "bench --sessions auto" in recall(path, KEY)[1]
    save(CAPACITY, path)
    found, told = recall(path, KEY)
    assert found.sessions == 3 and found.together and str(path) in told
    other = msgspec.structs.replace(KEY, threads=8, torch="3.0")
    found, told = recall(path, other)
    assert found is None
    assert "threads was 1, is 8; torch was 2.13, is 3.0" in told and "Measure again" in told


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "af-capacity/9"}', "\0"])
def test_a_file_that_holds_no_capacity_is_not_used_and_said_so(tmp_path, text):
    path = tmp_path / "tiny.json"
    path.write_text(text)
    found, told = recall(path, KEY)
    assert found is None and "holds no capacity" in told


def test_a_machine_that_holds_no_session_is_not_taken_at_its_word(tmp_path):
    save(msgspec.structs.replace(CAPACITY, sessions=0), tmp_path / "c.json")
    assert recall(tmp_path / "c.json", KEY)[0] is None


def test_the_key_follows_options_and_weights_and_not_where_they_lie():
    plain, again = (key_of(open_pipeline("toon"), 2) for _ in range(2))
    assert plain == again and plain.preset == "toon"
    option = key_of(open_pipeline("toon", {"anchor_cache.temporal_budget": 3}), 2)
    still = key_of(open_pipeline("toon", {"decoder.still": 0.06}), 2)
    assert len({plain.pipeline, option.pipeline, still.pipeline}) == 3
    assert key_of(open_pipeline("toon"), 1) != plain


def test_the_key_follows_weights_that_a_pipeline_file_names_beside_itself(tmp_path, monkeypatch):
    own = open_pipeline("toon").stages["decoder"].config.weights
    weights = Path(open_pipeline("toon").origin).parent / own
    (tmp_path / "mine.yaml").write_text("extends: toon\ndecoder: {weights: mine.safetensors}\n")
    (tmp_path / "mine.safetensors").write_bytes(weights.read_bytes())
    before = key_of(open_pipeline(str(tmp_path / "mine.yaml")), 2)
    monkeypatch.chdir(tmp_path)
    assert key_of(open_pipeline("mine.yaml"), 2) == before
    (tmp_path / "mine.safetensors").write_bytes(weights.read_bytes() + b" ")
    assert key_of(open_pipeline("mine.yaml"), 2).pipeline != before.pipeline


def test_the_command_writes_what_was_found_where_serve_looks(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AF_CACHE", str(tmp_path))
    told = []

    def finding(avatar, key, *, on_trial):
        told.append(avatar.info.preset)
        on_trial(CAPACITY.trials[0])
        return msgspec.structs.replace(CAPACITY, key=key)

    monkeypatch.setattr(search, "find_capacity", finding)
    measure_sessions("auto", "toon", {}, threads=2, capacity=None, json=Path("-"))
    assert told == ["toon"]
    out, err = capsys.readouterr()
    assert json.loads(out)["sessions"] == 3 and str(tmp_path) in err.replace("\n", "")
    found, _ = recall(default_path("toon"), key_of(open_pipeline("toon"), 2))
    assert found.sessions == 3 and found.measured
    with pytest.raises(RequestError, match="`auto`, or a number"):
        measure_sessions("many", "toon", {}, threads=2, capacity=None, json=None)


@pytest.mark.slow
def test_serve_takes_on_what_was_measured(tmp_path):
    capacity = tmp_path / "toon.json"
    key = key_of(open_pipeline("toon"), 1)
    save(msgspec.structs.replace(CAPACITY, key=key, sessions=5), capacity)
    options = ["--bind", "tcp://127.0.0.1:*", "--health", "-", "--threads", "1", "--queue", "2"]
    command = [COMMAND, "serve", *options, "--capacity", capacity]
    worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert worker.stderr.readline().startswith("serving toon at tcp://")
        line, why = worker.stderr.readline(), worker.stderr.readline()
        assert line == "5 sessions at a time, 2 may wait, batching on\n"
        assert why.startswith("5 sessions in real time were measured on ") and str(capacity) in why
    finally:
        worker.kill()
        worker.wait()
