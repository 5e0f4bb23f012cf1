"""One worker's life: claims, trials, checkpoints, results, replay, re-runs."""
