"""Synthetic worlds: endless training data with exact ground truth."""
