"""What every command needs while it runs: the run folder, checkpoints, weights, devices, signals, progress."""
