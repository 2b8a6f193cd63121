"""From scan files to batches of slices."""
