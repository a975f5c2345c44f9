"""Training data: caches of latents, on disk, in shards."""
