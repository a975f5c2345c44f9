"""One session of the stream worker as a value, and the pure functions that carry it on."""
