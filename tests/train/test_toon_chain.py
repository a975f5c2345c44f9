"""``make train-toon`` in miniature: every stage runs, is found again, and exports what loads."""

import af_core
import pytest
from af_train.recipes.toon import (
    NotTrainedError,
    ToonRecipe,
    export_readers,
    export_toon,
    train_toon,
)

pytest.importorskip("espeakng_loader")

TINY = ToonRecipe(
    reader_steps=2,
    reader_images=60,
    face_reader_steps=2,
    listener_steps=2,
    speech_pieces=2,
    codec_clips=8,
    num_clips=32,
    probe_steps=2,
    student_steps=2,
    student_batch=2,
    gate_clips=1,
    gate="off",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toon")
    train_toon(directory, TINY, lambda text: None)
    return directory


def test_a_finished_chain_is_found_and_not_trained_again(trained):
    said = []
    train_toon(trained, TINY, said.append)
    assert not [line for line in said if line.endswith("training")]


def test_exported_weights_fit_the_shipped_preset(trained, tmp_path):
    files = {path.stem: str(path) for path in export_toon(trained, tmp_path)}
    avatar = af_core.load(
        "toon",
        {
            "audio_encoder.weights": files["audio"],
            "image_encoder.weights": files["autoencoder"],
            "decoder.weights": files["autoencoder"],
            "denoiser.weights": files["denoiser"],
        },
    )
    assert avatar.info.width == 128


def test_exported_readers_are_two(trained, tmp_path):
    assert [p.stem for p in export_readers(trained, tmp_path)] == ["mouth_reader", "face_reader"]


def test_exporting_what_was_not_trained_says_how_to(tmp_path):
    with pytest.raises(NotTrainedError, match="af-train run toon"):
        export_toon(tmp_path, tmp_path)
