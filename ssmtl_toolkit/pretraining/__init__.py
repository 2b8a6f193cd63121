"""Pre-training: from options to a run folder."""
