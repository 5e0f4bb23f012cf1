"""Training of image classifiers: datasets, the network, the training loop."""
