"""Optuna's dashboard with access control and the artifacts of this service."""
