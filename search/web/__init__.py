"""The dashboard: Optuna's, guarded, with the artifacts that the service keeps."""
