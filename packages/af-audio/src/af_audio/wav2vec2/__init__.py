"""wav2vec 2.0 as AvatarForcing hears with it: live over a sliding window, or whole utterances.

``config`` imports no torch, and nothing is imported here. docs/wav2vec2.md has the numbers.
"""
