"""Published checkpoints, fetched from the Hugging Face hub into one folder that a preset reads.

What ``af-runtime download avatarforcing-1.3b --to DIR`` leaves, and all that a preset may rely on:

=========================== ==========================================================
``DIR/denoiser.pt``         network, adapters and audio layers (``generator[_ema]``)
``DIR/ode_audio_init.pt``   only with ``--only ode``: the student before distribution matching
``DIR/vae.pth``             Wan 2.1 video autoencoder, in Wan's names
``DIR/text/umt5-xxl.pth``   umT5-XXL text encoder in bfloat16, in Wan's names
``DIR/tokenizer/``          its tokenizer, a folder of transformers
``DIR/audio/``              wav2vec2-base-960h, a folder of transformers
``DIR/taew2_1.pth``         optional tiny decoder, put there by hand
``DIR/licences/``           licence files and cards of every repository used
``DIR/af-download.lock.json`` commit, size and SHA-256 of every file
``DIR/.af-download/``       files not yet whole; gone when all are
=========================== ==========================================================

A part that was not asked for (``--only``) is not there.
"""
