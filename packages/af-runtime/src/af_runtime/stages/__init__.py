"""A pipeline over several processes: one supervisor, one process for each part of the placement."""
