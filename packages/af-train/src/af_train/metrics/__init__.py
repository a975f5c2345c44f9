"""Measures of talking-head video."""
