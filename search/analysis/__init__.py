"""What trials and their re-runs say: statistics over seeds, ranking, the answer."""
