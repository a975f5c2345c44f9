"""Reading weights: strict, safetensors only, every fault listed at once."""
