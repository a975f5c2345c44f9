"""Simulated viewers of a stream worker: they speak and watch in real time, and take notes."""
