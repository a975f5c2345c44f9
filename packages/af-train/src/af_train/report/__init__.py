"""A run as one static page: what was written down, its curves, and how they are drawn."""
