"""Callbacks for experiment trackers: `from search.trackers import MLflow, TensorBoard`.

A tracker's library is imported when a search begins, so that other commands load a study without.
"""

from search.trackers.mlflow import MLflow
from search.trackers.tensorboard import TensorBoard
from search.trackers.wandb import WandB
from search.trackers.webhook import Webhook

__all__ = ["MLflow", "TensorBoard", "WandB", "Webhook"]
