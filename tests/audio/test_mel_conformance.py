"""The audio encoder of the embedded default passes the kit that plugin authors run."""

import pytest
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, load_catalog


@pytest.mark.af_conformance("audio_encoder")
def test_mel_conv(af_check):
    config = load_catalog().get("audio_encoder", "mel_conv").config(num_mels=16, width=8)
    af_check(lambda: config.build(BuildContext(Geometry(64, 64))))
