"""Training of image classifiers: datasets, network and training loop."""
