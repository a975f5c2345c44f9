"""What a run writes down, its strips of samples, and the page that shows them."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import tiny_training as t
import torch
from af_core.plugins import BuildContext
from af_train import cli
from af_train.journal import MissingExtraError, read_run
from af_train.recipes.lamp import lamp_chain, lamp_context, lamp_recipe, make_network
from af_train.recipes.settings import with_settings
from af_train.report import chart as charts
from af_train.report.page import render
from af_train.report.runs import Chart, NoRunError, read_report
from af_train.strips import fixed_batch, pictures, streamed, write_strip
from af_train.trainer import RoleConfig
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = RoleConfig(learning_rate=1e-3, betas=(0.9, 0.99))
SHORT = [f"{stage}.trainer.{what}" for stage in ("teacher", "ode", "dmd")
         for what in ("steps=4", "log_every=1", "batch_size=2")]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    """A chain of a few steps, with strips."""
    directory = tmp_path_factory.mktemp("lamp") / "run <1>"
    settings = [*SHORT, "backfill.num_clips=4", "backfill.num_steps=10", "samples.every=3",
                "samples.clips=2", "dmd.trainer.tensorboard=true"]  # fmt: skip
    lamp_chain(directory, with_settings(lamp_recipe(), settings)).run()
    return directory


def history(directory):
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def test_a_run_writes_down_rates_pace_and_machine(run):
    lines = history(run / "teacher")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    about = read_run(run / "teacher")
    warm = lamp_recipe().teacher.trainer.roles["teacher"]
    for line in lines:
        done = line["step"] - 1
        cosine = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * done / 4))
        expected = warm.learning_rate * min(1, line["step"] / 20) * cosine
        assert line["teacher/rate"] == pytest.approx(expected, rel=1e-4)
        assert line["samples_per_s"] > 0
    assert lines[-1]["eta_s"] == 0 < lines[0]["eta_s"]
    assert about.samples == 2 and about.settings["steps"] == 4
    assert about.parameters == {"teacher": sum(p.numel() for p in make_network().parameters())}
    assert about.sessions[0].environment["torch"] == torch.__version__
    note = json.loads((run / "recipe.json").read_text())
    assert note["settings"]["dmd"]["trainer"]["steps"] == 4


def test_a_run_shorter_than_its_interval_still_has_a_last_line(tmp_path):
    settings = ["teacher.trainer.steps=3", "teacher.trainer.log_every=50"]
    lamp_chain(tmp_path, with_settings(lamp_recipe(), settings)).teacher()
    assert [line["step"] for line in history(tmp_path / "teacher")] == [3]


def test_tensorboard_reads_the_same_numbers(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "dmd" / "events"))
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("critic/loss")]
    assert seen == [
        (line["step"], pytest.approx(line["critic/loss"], rel=1e-5))
        for line in history(run / "dmd")
    ]
    assert not (run / "ode" / "events").exists()


def test_without_its_package_the_option_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'af-train\[tensorboard\]'"):
        t.trainer(tmp_path, "flow-matching", RATE, steps=1, tensorboard=True).fit()


def test_a_resumed_run_counts_its_sessions_and_repeats_no_step(tmp_path):
    t.trainer(tmp_path / "run", "flow-matching", RATE, steps=4, save_every=2).fit()
    stale = {"step": 4, "seconds": 99.0, "teacher/loss": 7.0}
    with (tmp_path / "run" / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "seconds": 100.0}) + "\n{not a line\n")
        file.write(json.dumps(stale) + "\n")
    t.trainer(tmp_path / "run", "flow-matching", RATE, steps=6, save_every=2).fit()
    (stage,) = read_report(tmp_path / "run").stages
    assert [s.from_step for s in stage.sessions] == [0, 4]
    (loss,) = [c for c in stage.charts if c.key == "loss"]
    assert [step for step, _ in loss.series["teacher"]] == [1, 2, 3, 4, 5, 6]
    assert loss.series["teacher"][3][1] == 7.0
    assert stage.damaged_lines == 1 and stage.seconds > 99
    assert (stage.step, stage.state) == (6, "finished")
    assert [c.step for c in stage.checkpoints] == [4, 6]


def test_strips_show_the_same_clips_at_intervals_and_at_the_end(run):
    for stage in ("teacher", "ode", "dmd"):
        names = sorted(p.stem for p in (run / stage / "samples").iterdir())
        assert names == ["000000003", "000000004", "truth"]
        with Image.open(run / stage / "samples" / "000000004.png") as image:
            assert image.size == (6 * 96, 2 * 96)
    truth = [(run / s / "samples" / "truth.png").read_bytes() for s in ("teacher", "ode", "dmd")]
    assert truth[0] == truth[1] == truth[2]


def test_a_strip_is_what_the_engine_streams_with_the_averaged_weights(run, tmp_path):
    from af_core.weights.files import load

    network = make_network().eval()
    load(network, run / "dmd.safetensors")
    config = with_settings(lamp_recipe(), ["samples.clips=2"]).samples
    batch = fixed_batch(lamp_chain(run, lamp_recipe()).source, config, 2)
    latents = streamed(network, lamp_context(), batch)
    assert latents.shape == batch.clip.shape
    write_strip(tmp_path / "own.png", pictures(latents, batch.portrait), config.columns)
    with (
        Image.open(tmp_path / "own.png") as a,
        Image.open(run / "dmd" / "samples" / "000000004.png") as b,
    ):
        assert a.tobytes() == b.tobytes()


def test_strips_draw_through_the_decoder_if_there_is_one():
    class Decoder:
        def open(self, num_streams):
            return num_streams

        def step(self, state, latents):
            frames = torch.arange(1 + 4 * (latents.shape[1] - 1), dtype=torch.uint8)
            return frames[None, :, None, None, None].expand(state, -1, 8, 8, 3), state

    frames = pictures(torch.zeros(2, 3, 4, 2, 2), torch.zeros(2, 1, 4, 2, 2), Decoder())
    assert frames.shape == (2, 12, 8, 8, 3) and frames[0, :, 0, 0, 0].tolist() == [*range(1, 13)]
    assert isinstance(lamp_context(), BuildContext)


class Page(HTMLParser):
    """Tags that are open, and what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.ids = [], [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [given[k] for k in ("src", "href") if k in given]
        self.ids.add(given.get("id"))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(run):
    found = read_report(run)
    assert [s.objective for s in found.stages] == ["flow-matching", "ode-regression", "dmd"]
    assert found.stages[0].settings["options.shift"] == "3.0"
    text = render(found)
    assert "flow-matching, finished at step" in text
    page = Page()
    page.feed(text)
    assert page.open == [] and "<script" not in text and "url(" not in text
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    assert {link[1:] for link in page.fetched if link.startswith("#")} <= page.ids
    assert "run &lt;1&gt;" in text and "run <1>" not in text
    assert text.count("data:image/webp") == 9
    for title in ("Loss", "Gradient norm", "Learning rate", "Samples a second", "Time left"):
        assert text.count(f"<b>{title}</b>") == 3
    assert "dmd.options.guidance_weight" in text and "critic" in text and torch.__version__ in text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_a_stage_alone_and_runs_of_other_loops_are_shown_too(run, tmp_path):
    assert [s.name for s in read_report(run / "dmd").stages] == ["dmd"]
    old = tmp_path / "reader"
    old.mkdir()
    lines = [
        {"loss": 1 / n, "accuracy": 1 - 1 / n, "step": 50 * n, "seconds": n} for n in (1, 2, 3)
    ]
    (old / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = read_report(tmp_path)
    assert [c.title for c in report.stages[0].charts] == ["Loss", "Accuracy"]
    assert "Accuracy" in render(report)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoRunError, match="holds no history"):
        read_report(tmp_path / "empty")


def test_a_damaged_picture_is_left_out(run, tmp_path):
    import shutil

    shutil.copytree(run / "ode", tmp_path / "ode")
    (tmp_path / "ode" / "samples" / "000000003.png").write_bytes(b"no picture")
    text = render(read_report(tmp_path / "ode"))
    assert text.count("data:image/webp") == 2 and "1 more in samples/" in text


@given(
    st.dictionaries(
        st.sampled_from(["student", "critic"]),
        st.lists(
            st.tuples(
                st.integers(1, 10**6), st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])
            ),
            min_size=1,
            max_size=400,
        ),
        min_size=1,
    )
)
def test_whatever_was_logged_is_drawn_inside_its_frame(series):
    rising = {n: tuple(sorted(p, key=lambda point: point[0])) for n, p in series.items()}
    drawn = charts.draw(Chart("loss", "Loss", rising), {"student": 0, "critic": 2})
    finite = [v for points in rising.values() for _, v in points if math.isfinite(v)]
    assert (drawn is None) == (not finite)
    if drawn is None:
        return
    for curve in drawn.curves:
        for path in filter(None, (curve.line, curve.band)):
            numbers = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", path)]
            assert all(drawn.left - 0.1 <= x <= drawn.right + 0.1 for x in numbers[::2])
            assert all(0 <= y <= drawn.bottom + 0.1 for y in numbers[1::2])
    places = [place for place, _ in drawn.y_marks]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (12345, "12.3k"),
        (2.5e6, "2.5M"),
        (0.0412, "0.0412"),
        (3e-5, "3e-5"),
        (1500, "1500"),
    ],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(8, "8 s"), (100, "1 min 40 s"), (7500, "2 h 05 min"), (7199, "2 h 00 min"), (180, "3 min"),
     (3 * 86400, "3 d 00 h")],
)  # fmt: skip
def test_times_are_said_in_two_units(seconds, text):
    assert charts.duration(seconds) == text


def test_the_command_writes_the_page_or_the_numbers(run, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["af-train", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    assert command(run) in (0, None)
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert command(run, "--json") in (0, None)
    assert [s["name"] for s in json.loads(capsys.readouterr().out)["stages"]] == [
        "teacher", "ode", "dmd"]  # fmt: skip
    assert command(run / "nowhere") == 78
