"""The examples run as they are written, on the avatar of the tests."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import af_core
import numpy as np
import pytest
from af_train.recipes.lamp import lamp_recipe
from af_train.recipes.settings import with_settings
from media_files import read_sound, read_video, write_wav

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inputs(monkeypatch, bar_avatar, portrait_file, clicks, tmp_path):
    monkeypatch.setattr(af_core, "load", lambda *rest: bar_avatar)
    return str(portrait_file), str(write_wav(tmp_path / "speech.wav", clicks.samples))


def test_both_examples_make_the_same_video_and_sound(inputs, tmp_path, capsys):
    one, two = str(tmp_path / "one.mp4"), str(tmp_path / "two.mp4")
    example("01_clip.py").main(*inputs, one)
    example("02_step_by_hand.py").main(*inputs, two)
    assert np.array_equal(read_video(one)[0], read_video(two)[0])
    assert np.array_equal(read_sound(one)[0], read_sound(two)[0])
    assert "5.00 s" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["01_clip.py", "02_step_by_hand.py"])
def test_an_example_without_arguments_says_how_to_use_it(name):
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"usage: {name} PORTRAIT AUDIO OUT.mp4 [PRESET]\n"


def test_public_names_are_what_they_say_whatever_was_imported_before():
    import af_runtime.benchmark
    import af_runtime.generation  # a submodule must not hide the function of the same name

    for name in af_runtime.__all__:
        assert getattr(af_runtime, name).__name__ == name


def test_importing_af_runtime_imports_neither_torch_nor_ffmpeg():
    code = "import af_runtime, sys; assert not {'torch', 'av', 'scipy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_example_of_distillation_prints_what_each_stage_does(tmp_path, monkeypatch, capsys):
    four = example("04_distill_on_cpu.py")
    quick = [f"{stage}.trainer.steps=2" for stage in ("teacher", "ode", "dmd")]
    recipe = with_settings(lamp_recipe(), [*quick, "backfill.num_clips=8"])
    monkeypatch.setattr(four, "lamp_recipe", lambda: recipe)
    four.main(str(tmp_path))
    said = capsys.readouterr().out
    assert "wanted" in said and "distribution matching" in said and "1.000  0.500" in said
