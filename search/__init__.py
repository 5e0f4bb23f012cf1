"""Hyperparameter search over one small convolutional network, kept in a SQL database."""
