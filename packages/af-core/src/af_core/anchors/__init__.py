"""Policies of what the denoiser attends to besides its window."""
