"""Epochs as a training yields them, for tests that train nothing."""

from typing import Any

from search.study.metrics import Epoch


def epoch(number: int, *, seconds: float = 1.0, **metrics: float) -> Epoch:
    return Epoch(number=number, metrics=metrics, seconds=seconds)


def columns(of: Epoch, metric: str = "test_accuracy") -> dict[str, Any]:
    """Return an epoch as columns of `search.database.tables.epochs`, `metric` maximized, of no
    audit."""
    return {
        "number": of.number,
        "score": of.metrics[metric],
        "metrics": dict(of.metrics),
        "seconds": of.seconds,
        "is_audit": False,
    }
