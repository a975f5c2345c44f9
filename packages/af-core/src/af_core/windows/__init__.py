"""Window schedulers."""
