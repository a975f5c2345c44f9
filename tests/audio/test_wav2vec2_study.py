"""The study of live rows: zero where live and whole agree, falling as more is heard."""

import re

import pytest
import torch
from af_audio.wav2vec2.loading import load_network
from af_audio.wav2vec2.offline import encode_clip
from af_audio.wav2vec2.streaming import StreamingWav2Vec2
from af_audio.wav2vec2.study import compare, main
from af_core.testing.conformance.common import speech
from media_files import write_wav
from tiny_wav2vec2 import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def test_rows_of_a_window_that_holds_the_whole_clip_are_at_no_distance(folder):
    network, samples = load_network(str(folder)), speech(1, 640 * 16)
    encoder = StreamingWav2Vec2(network, left_frames=12, hop_frames=4, revised_frames=8)
    found = compare(encoder, samples, encode_clip(network, samples), first_frame=4)
    assert [d.heard_after for d in found.distances] == [0, 4, 8]
    last = StreamingWav2Vec2(network, left_frames=0, hop_frames=16)
    (same,) = compare(last, samples, encode_clip(network, samples)).distances
    assert same.relative_rms < 1e-5 and same.of_variation < 1e-5
    assert same.cosine == pytest.approx(1, abs=1e-6)


def test_distances_are_those_of_rows_put_side_by_side(folder):
    """With two hops, every row but those of the last one is compared by hand."""
    network, samples = load_network(str(folder)), speech(1, 640 * 8)
    encoder = StreamingWav2Vec2(network, left_frames=4, hop_frames=4, revised_frames=4)
    whole = encode_clip(network, samples)
    new, revised = compare(encoder, samples, whole).distances
    rows, revisions, _ = encoder.step_revising(encoder.open(1), samples)
    error = (rows - whole).norm() / whole.norm()
    assert new.relative_rms == pytest.approx(float(error), rel=1e-5)
    again, exact = revisions[0, 1], whole[0, :4]
    assert revised.cosine == pytest.approx(
        float(torch.cosine_similarity(again, exact, dim=-1).mean()), rel=1e-6
    )
    assert revised.relative_rms == pytest.approx(float((again - exact).norm() / exact.norm()), 1e-4)


def test_the_command_prints_a_table_with_a_line_for_each_age(folder, tmp_path, capsys):
    audio = write_wav(tmp_path / "a.wav", speech(1, 640 * 120)[0].numpy())
    options = ("--left", "2", "--from", "0", "--right", "0", "4")
    main([str(audio), "--weights", str(folder), *options])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 2 * 4
    assert all(re.fullmatch(r"\|( [^|]+ \|){8}", line) for line in lines)


def test_a_checkpoint_that_is_not_there_ends_the_command_with_one_line(tmp_path):
    audio = write_wav(tmp_path / "a.wav", speech(1, 6400)[0].numpy())
    with pytest.raises(SystemExit, match=r"^error: No config\.json"):
        main([str(audio), "--weights", str(tmp_path / "no")])
