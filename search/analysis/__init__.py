"""Analysis of trials and re-runs: statistics over seeds, ranking and the best trial."""
