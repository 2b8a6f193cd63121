"""Checks of ways to learn from unlabelled slices."""
