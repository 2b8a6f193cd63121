"""Scores of predictions, and how sure one can be of a difference."""
