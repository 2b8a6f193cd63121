"""Rows of pre-training and fine-tuning, from a TOML file to a table."""
