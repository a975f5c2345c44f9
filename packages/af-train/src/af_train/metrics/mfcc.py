"""MFCC as SyncNet hears them: python_speech_features with its defaults, on the int16 scale."""

import numpy as np
import torch
from af_core.errors import ConfigError
from af_core.geometry import AUDIO_HZ
from torch import Tensor

from af_train.metrics.contract import UnmeasurableClipError
from af_train.metrics.syncnet import ROWS_PER_FRAME, WINDOW_ROWS

_FULL_SCALE = 32768


def mfcc_rows(samples: Tensor) -> Tensor:
    """Return 13 coefficients every 10 ms, float32 ``[t, 13]``, of float32 ``[n]`` at 16 kHz.

    25 ms windows, 26 filters, 512 points, pre-emphasis .97, lifter 22, energy in place of C0.
    """
    try:
        from python_speech_features import mfcc
    except ImportError as fault:
        raise ConfigError(
            "Sync-C and Sync-D need python_speech_features: pip install 'af-train[sync]'"
        ) from fault
    rows = mfcc(samples.double().numpy() * _FULL_SCALE, AUDIO_HZ)
    return torch.from_numpy(rows.astype(np.float32))


def mfcc_windows(samples: Tensor) -> Tensor:
    """Return a window of 20 rows for each video frame, ``[n, 1, 13, 20]``.

    Raises ``UnmeasurableClipError`` for less than 20 rows, which is .2 s.
    """
    if len(samples) == 0 or len(rows := mfcc_rows(samples)) < WINDOW_ROWS:
        raise UnmeasurableClipError(
            f"{len(samples)} samples are less than {WINDOW_ROWS} rows of MFCC, 0.2 s of sound."
        )
    return rows.unfold(0, WINDOW_ROWS, ROWS_PER_FRAME)[:, None]
