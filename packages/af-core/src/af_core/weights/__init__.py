"""Reading weights: strict, no code is run, nothing is held twice, every fault listed at once."""
