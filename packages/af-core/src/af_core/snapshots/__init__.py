"""Streams as values that leave the process: states taken apart, and put together elsewhere."""
