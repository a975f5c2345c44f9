"""wav2vec 2.0: rows against transformers' own forward, checkpoints, and what is refused."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from af_audio.errors import MissingPackageError
from af_audio.wav2vec2.config import Wav2Vec2Options, Wav2Vec2Shape
from af_audio.wav2vec2.features import Wav2Vec2Features
from af_audio.wav2vec2.loading import load_network
from af_audio.wav2vec2.offline import encode_clip
from af_core.errors import ConfigError, WeightsError
from af_core.geometry import Geometry, num_frames
from af_core.graph import check_pipeline
from af_core.plugins import BuildContext, load_catalog
from af_core.testing.conformance.audio_encoders import encoded
from af_core.testing.conformance.common import speech
from tiny_wav2vec2 import TINY_DIM, save, tiny_checkpoint, tiny_model
from torch import nn
from torch.nn import functional as F

GEOMETRY = Geometry(64, 64, 4)


class Interpolated(nn.Module):
    """The release's way from the convolutions' 50 Hz to 25 Hz: linear, with the ends aligned."""

    def __init__(self, convolutions, count):
        super().__init__()
        self.convolutions, self.count = convolutions, count

    def forward(self, samples):
        made = self.convolutions(samples)
        return F.interpolate(made, size=self.count, mode="linear", align_corners=True)


def released_rows(model, samples):
    """Rows of the release: normalised by its feature extractor, run by transformers as it is."""
    from transformers import Wav2Vec2FeatureExtractor

    prepare = Wav2Vec2FeatureExtractor(do_normalize=True)
    values = [prepare(one.numpy(), sampling_rate=16_000).input_values[0] for one in samples]
    convolutions = model.feature_extractor
    model.feature_extractor = Interpolated(convolutions, samples.shape[1] // 640)
    out = model(torch.from_numpy(np.stack(values)), output_hidden_states=True)
    model.feature_extractor = convolutions
    return torch.cat([out.last_hidden_state, *out.hidden_states], dim=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_rows_are_those_of_the_release(folder, count):
    samples = speech(2, 640 * count) + 0.05
    want = released_rows(tiny_model(), samples)
    assert want.shape == (2, count, TINY_DIM)
    assert torch.allclose(encode_clip(load_network(str(folder)), samples), want, atol=1e-5)


def test_without_normalisation_the_rows_are_bit_identical_to_transformers():
    model, samples = tiny_model(), speech(2, 640 * 30)
    convolutions = model.feature_extractor
    model.feature_extractor = Interpolated(convolutions, 30)
    out = model(samples, output_hidden_states=True)
    model.feature_extractor = convolutions
    rows = Wav2Vec2Features(model, Wav2Vec2Shape())(samples)
    assert torch.equal(rows, torch.cat([out.last_hidden_state, *out.hidden_states], dim=-1))


def test_the_base_model_has_the_published_size():
    shape, network = Wav2Vec2Shape(), load_network(None)
    assert sum(weight.numel() for weight in network.parameters()) == shape.num_parameters
    assert shape.num_parameters == 94_371_712 - 768 - 128  # no masking vector, no weight norm
    assert (shape.feature_dim, shape.receptive_field) == (10_752, 400)
    assert network(speech(1, 1280)).shape == (1, 2, 10_752)


@pytest.mark.parametrize("biased", [False, True])
def test_the_weights_of_a_checkpoint_are_counted_from_its_config(biased, tmp_path):
    network = load_network(str(tiny_checkpoint(tmp_path / "w", conv_bias=biased)))
    counted = sum(weight.numel() for weight in network.parameters())
    assert counted == network.shape.num_parameters


CHECKPOINTS = {
    "safetensors": {},
    "bin": {"kind": "bin"},
    "old names": {"old_names": True},
    "with a head": {"prefix": "wav2vec2.", "extra": {"lm_head.weight": torch.ones(3, 16)}},
    "with a head, as published": {
        "prefix": "wav2vec2.",
        "old_names": True,
        "extra": {"lm_head.bias": torch.ones(3), "quantizer.codevectors": torch.ones(2)},
    },
}


@pytest.mark.parametrize("options", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_every_kind_of_checkpoint_gives_the_same_rows(options, folder, tmp_path):
    samples = speech(1, 6400)
    other = save(tiny_model(), tmp_path / "w", **options)
    want = load_network(str(folder))(samples)
    assert torch.equal(load_network(str(other))(samples), want)
    (file,) = [path for path in other.iterdir() if path.name != "config.json"]
    assert torch.equal(load_network(str(file))(samples), want)


WRONG_MODELS = {
    "stride is 160": {"conv_stride": [5, 2, 2, 2, 2, 2, 1]},
    "hears 800 samples": {"conv_kernel": [10, 3, 3, 3, 3, 3, 4]},
    "'hubert'": {"model_type": "hubert"},
    "feat_extract_norm": {"feat_extract_norm": "layer"},
    "do_stable_layer_norm": {"do_stable_layer_norm": True},
    "add_adapter": {"add_adapter": True},
    "hidden_size 18": {"hidden_size": 18},
    "differ in length": {"conv_dim": [8, 8]},
    "Expected `int`": {"num_hidden_layers": "twelve"},
}


@pytest.mark.parametrize(("text", "change"), WRONG_MODELS.items(), ids=WRONG_MODELS)
def test_another_audio_model_is_refused_before_it_is_loaded(text, change, folder, tmp_path):
    table = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table | change))
    with pytest.raises(ConfigError, match=text):
        Wav2Vec2Options(weights=str(tmp_path)).declare(GEOMETRY)


def test_weights_that_do_not_fit_are_refused_by_name(folder, tmp_path):
    save(tiny_model(num_hidden_layers=3), tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"unexpected  encoder\.layers\.2"):
        load_network(str(tmp_path))


@pytest.mark.parametrize("content", [b"\x80\x02}q\x00.", b"", b"PK\x03\x04 no archive"])
def test_a_bin_file_that_holds_no_tensors_is_refused(content, folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        load_network(str(tmp_path))


BAD_OPTIONS = {
    "revised_frames": {"left_context_s": 1.0},
    "left_context_s": {"left_context_s": -1.0, "revised_frames": 0},
    "right_context_frames": {"right_context_frames": -1},
    "hop_frames": {"hop_frames": 0},
    "variance_floor": {"variance_floor": 0.0},
    "slack_frames": {"slack_frames": -80},
}


@pytest.mark.parametrize(("name", "options"), BAD_OPTIONS.items(), ids=BAD_OPTIONS)
def test_options_that_make_no_window_are_refused(name, options):
    with pytest.raises(ConfigError, match=name):
        Wav2Vec2Options(**options)


@pytest.mark.parametrize(
    ("hop", "right", "late_ms"), [(None, 0, 0), (4, 0, 0), (16, 2, 80), (6, 0, 160), (32, 1, 680)]
)
def test_the_delay_is_the_longest_that_a_block_waits_for_its_hop(hop, right, late_ms, folder):
    options = {"hop_frames": hop, "right_context_frames": right, "revised_frames": 0}
    config = Wav2Vec2Options(weights=str(folder), **options)
    size = config.hop(GEOMETRY)
    waits = [
        -(-16 * block // size) * size - 16 * block + right  # frames from its end to its last row
        for block in range(1, 50)
    ]
    assert config.declare(GEOMETRY).lookahead_ms == late_ms == 40 * max(waits)


@pytest.mark.parametrize("options", [{"hop_frames": 4}, {"revised_frames": 40}], ids=str)
def test_revisions_that_fit_no_blocks_are_refused(options, folder):
    with pytest.raises(ConfigError, match="a block at a time, 16 frames"):
        Wav2Vec2Options(weights=str(folder), **options).declare(GEOMETRY)


def test_only_a_live_encoder_that_revises_has_an_output_for_it(folder):
    for options, has in (({}, True), ({"revised_frames": 0}, False), ({"mode": "offline"}, False)):
        declared = Wav2Vec2Options(weights=str(folder), **options).declare(GEOMETRY)
        assert (declared.output("revisions") is not None) is has


def test_whole_utterances_are_waited_for_without_limit(folder):
    declared = Wav2Vec2Options(weights=str(folder), mode="offline").declare(GEOMETRY)
    assert declared.lookahead_ms == math.inf
    assert offline(folder).lookahead_samples > 16_000 * 3600 * 24 * 365


def pipeline(folder, **options):
    stage = {"use": "wav2vec2", "weights": str(folder), "left_context_s": 2.0, **options}
    return {"audio_encoder": stage, "denoiser": {"weights": None, "audio_dim": TINY_DIM}}


def test_a_network_for_other_rows_is_a_problem_of_the_pipeline(folder):
    table = pipeline(folder)
    assert check_pipeline("toon", table).problems == ()
    found = check_pipeline("toon", table | {"denoiser.audio_dim": 10_752}).problems
    assert [problem.code for problem in found] == ["format_mismatch"] * 2  # rows and revisions
    assert all("10752" in str(problem) and str(TINY_DIM) in str(problem) for problem in found)


def test_missing_files_are_problems_of_the_pipeline(folder, tmp_path):
    found = check_pipeline("toon", pipeline(tmp_path / "nowhere")).problems
    assert [p.code for p in found] == ["bad_stage"] and "config.json" in found[0].message
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (problem,) = check_pipeline("toon", pipeline(tmp_path)).problems
    assert problem.code == "bad_weights" and "model.safetensors" in problem.message


def test_explaining_needs_neither_torch_nor_transformers(folder):
    code = (
        "import sys\nfrom af_core.graph import explain, open_pipeline\n"
        f"found = explain(open_pipeline('toon', {pipeline(folder)!r}))\n"
        "assert found.latency.total_ms == 640, found.latency\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_transformers_the_message_is_the_command_to_type(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError, match='pip install "transformers'):
        load_network(str(folder))


def offline(folder, **options):
    config = load_catalog().get("audio_encoder", "wav2vec2").config
    config = config(weights=str(folder), mode="offline", **options)
    return config.build(BuildContext(GEOMETRY))


@pytest.mark.parametrize("num_samples", [1, 640, 641, 20_000])
def test_an_offline_stream_is_the_clip_completed_with_silence(num_samples, folder):
    samples = speech(2, num_samples)
    rows = encoded(offline(folder), samples, (1, 0, 640, 77))
    count = num_frames(num_samples)
    assert rows.shape == (2, count, TINY_DIM)
    mean, std = samples.mean(1, keepdim=True), samples.std(1, keepdim=True, correction=0)
    padded = F.pad(samples, (0, 640 * count - num_samples))
    want = load_network(str(folder))((padded - mean) / (std.square() + 1e-7).sqrt())
    assert torch.allclose(rows, want, atol=1e-5)


def test_slack_is_heard_and_has_no_rows(folder):
    samples = speech(1, 640 * 20)
    silence = torch.zeros(1, 640 * 80)
    network, scale = load_network(str(folder)), samples.std(correction=0)
    want = network(torch.cat([samples - samples.mean(), silence - samples.mean()], 1) / scale)
    rows = encoded(offline(folder, slack_frames=80), samples)
    assert torch.allclose(rows, want[:, :20], atol=1e-4)
    assert not torch.allclose(rows, encoded(offline(folder), samples), atol=1e-2)


def test_a_clip_cropped_as_in_the_release_is_normalised_over_the_whole_file(folder):
    """The release crops to 4 T + 80 frames after it has normalised the whole file."""
    samples = torch.cat([speech(1, 640 * 120), 3 * speech(1, 640 * 40)], dim=1)
    latents, network = 5, load_network(str(folder))
    whole = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    want = network(whole[:, : 640 * (4 * latents + 80)])
    rows = encode_clip(network, samples, count=4 * latents, slack_frames=80)
    assert rows.shape[1] == 4 * latents
    assert torch.allclose(rows, want[:, : 4 * latents], atol=1e-5)


def test_bfloat16_stays_near_float32_and_returns_float32(folder):
    samples = speech(1, 640 * 40)
    exact, short = (encoded(offline(folder, dtype=d), samples) for d in ("float32", "bfloat16"))
    assert short.dtype == torch.float32
    config = Wav2Vec2Options(weights=str(folder), dtype="bfloat16")
    assert config.declare(GEOMETRY).bytes_per_parameter == 2
    assert 0 < (short - exact).norm() / exact.norm() < 0.05
