"""The published model, from the hub to a clip, in miniature: download, convert, load, generate."""

import json

import fake_hub
import pytest
import tiny_published as tiny
import torch
from af_core.errors import AvatarForcingError
from af_core.models.tiny_vae import TinyVAE, TinyVAEConfig
from af_core.pipeline import load
from af_runtime.cli import build_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import read_video, write_wav
from PIL import Image
from typer.testing import CliRunner

SAMPLES = 30_000
"""Two blocks of speech and a bit: 47 frames."""
FRAMES = -(-SAMPLES // 640)


def run(*arguments):
    words = [str(word) for word in arguments]
    return CliRunner().invoke(build_app(words), words)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that the command `download` filled."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "made").mkdir()
        repos = tiny.repositories(folder / "made")
        with fake_hub.connected(patch, folder, repos):
            done = run("download", "avatarforcing-1.3b", "--to", folder / "here", "--yes", "--json")
    assert done.exit_code == 0, done.output
    return folder / "here"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AF_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def avatar(home, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("avatar")
        patch.setenv("AF_CACHE", str(folder / "cache"))
        return load(tiny.pipeline(folder), {"weights_dir": str(home)})


def speech(count=SAMPLES, seed=0):
    return 0.3 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def face(seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (32, 48, 3), generator=rng, dtype=torch.uint8)


def video(avatar, samples=None, portrait=None):
    samples = speech() if samples is None else samples
    return torch.cat([*avatar.stream(face() if portrait is None else portrait, [samples])], 1)


def test_a_clip_is_made_from_the_downloaded_folder(home, tmp_path):
    Image.fromarray(face().numpy()).save(tmp_path / "face.png")
    write_wav(tmp_path / "speech.wav", speech().numpy())
    out = tmp_path / "out.mp4"
    preset = tiny.pipeline(tmp_path)
    done = run("generate", tmp_path / "face.png", tmp_path / "speech.wav", "-o", out, "--json",
               "--preset", preset, "--weights", home)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_frames"] == FRAMES
    frames, _ = read_video(out)
    assert frames.shape == (FRAMES, 32, 48, 3)
    assert frames.std() > 5


def test_the_portrait_decides_the_size_as_in_the_release(home, tmp_path):
    Image.fromarray(face().numpy()).resize((70, 40)).save(tmp_path / "face.png")
    write_wav(tmp_path / "speech.wav", speech(2_000).numpy())
    out = tmp_path / "out.mp4"
    done = run("generate", tmp_path / "face.png", tmp_path / "speech.wav", "-o", out, "--json",
               "--preset", tiny.pipeline(tmp_path), "--weights", home,
               "--fit", "release", "--release-timing")  # fmt: skip
    assert done.exit_code == 0, done.output
    frames, _ = read_video(out)
    assert frames.shape == (1 + 4, 32, 64, 3)  # the still portrait, and four frames of speech


def test_the_converted_export_draws_the_same_video(avatar, home, tmp_path):
    merged = tmp_path / "denoiser.safetensors"
    done = run("weights", "convert", home / "denoiser.pt", merged, "--alpha", "2")
    assert done.exit_code == 0, done.output
    other = load(
        tiny.pipeline(tmp_path), {"weights_dir": str(home), "denoiser.weights": str(merged)}
    )
    difference = video(avatar).int() - video(other).int()
    assert difference.abs().max() <= 1


def test_the_averaged_weights_draw_another_video(avatar, home, tmp_path):
    more = {"weights_dir": str(home), "denoiser.entry": "generator_ema"}
    other = load(tiny.pipeline(tmp_path), more)
    assert (video(avatar).int() - video(other).int()).abs().max() > 3


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, SAMPLES), max_size=5))
def test_any_cut_of_the_speech_gives_the_same_video(avatar, cuts):
    pieces = torch.tensor_split(speech(), sorted(cuts))
    cut = torch.cat([*avatar.stream(face(), pieces)], 1)
    assert torch.equal(cut, video(avatar))
    assert cut.shape == (1, FRAMES, 32, 48, 3)


def test_two_streams_in_a_batch_are_each_alone(avatar):
    both, sounds = torch.stack([face(1), face(2)]), torch.stack([speech(seed=3), speech(seed=4)])
    together = torch.cat([*avatar.stream(both, [sounds], seed=[5, 6])], 1)
    for i in range(2):
        alone = torch.cat([*avatar.stream(both[i], [sounds[i]], seed=5 + i)], 1)
        assert (together[i].int() - alone[0].int()).abs().max() <= 1


def test_speech_shorter_than_a_block_has_a_frame_for_each_of_its_40_ms(avatar):
    assert video(avatar, speech(1_000)).shape[1] == 2


def test_a_prompt_that_was_encoded_once_needs_no_text_weights(home, tmp_path):
    options = {
        "weights_dir": str(home),
        "text_encoder.prompt_cache": str(tmp_path / "prompts"),
    }
    first = video(load(tiny.pipeline(tmp_path), options))
    away = {**options, "text_encoder.weights": None, "text_encoder.tokenizer": None}
    assert torch.equal(video(load(tiny.pipeline(tmp_path), away)), first)


@pytest.mark.parametrize(
    ("preset", "delay_ms"),
    [("avatarforcing-1.3b-release", float("inf")), ("self-forcing-1step", 640)],
)
def test_presets_beside_the_main_one_draw_too(preset, delay_ms, home, tmp_path, avatar):
    other = load(tiny.pipeline(tmp_path, preset), {"weights_dir": str(home)})
    assert other.info.delay_ms == delay_ms
    made = video(other)
    assert made.shape == (1, FRAMES, 32, 48, 3)
    assert (made.int() - video(avatar).int()).abs().max() > 3


def test_the_fast_preset_draws_with_the_public_tiny_decoder(home, tmp_path):
    torch.manual_seed(0)
    torch.save(TinyVAE(TinyVAEConfig()).state_dict(), tmp_path / "taew2_1.pth")
    options = {"weights_dir": str(home), "decoder.weights": str(tmp_path / "taew2_1.pth")}
    avatar = load(tiny.pipeline(tmp_path, "avatarforcing-1.3b-fast"), options)
    assert video(avatar, speech(2_000)).shape == (1, 4, 32, 48, 3)


def test_less_look_ahead_is_less_delay_and_another_video(home, tmp_path, avatar):
    options = {"weights_dir": str(home), "window_scheduler.audio_lookahead_blocks": 0}
    other = load(tiny.pipeline(tmp_path), options)
    assert (avatar.info.delay_ms, other.info.delay_ms) == (2560, 640)
    assert not torch.equal(video(other), video(avatar))


@pytest.mark.parametrize(
    ("stage", "file", "said"),
    [
        ("denoiser", "vae.pth", "looks like the Wan 2.1 video autoencoder; the denoiser takes"),
        ("decoder", "denoiser.pt", "looks like the AvatarForcing denoiser; wan_vae takes"),
        ("image_encoder", "text/umt5-xxl.pth", "umT5 text encoder"),
        (
            "text_encoder",
            "vae.pth",
            "looks like the Wan 2.1 video autoencoder; the text encoder takes",
        ),
    ],
)
def test_a_file_of_another_family_is_called_by_its_name(home, tmp_path, stage, file, said):
    options = {"weights_dir": str(home), f"{stage}.weights": str(home / file)}
    with pytest.raises(AvatarForcingError, match=said):
        load(tiny.pipeline(tmp_path), options)


def test_a_size_that_does_not_split_into_tokens_names_the_nearest(home, tmp_path):
    options = {"weights_dir": str(home), "geometry.width": 50}
    with pytest.raises(AvatarForcingError, match="48x32 would do"):
        load(tiny.pipeline(tmp_path), options)
