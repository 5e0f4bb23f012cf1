"""Comparison of a study's variants with their published metrics, for tables and notes."""

from collections.abc import Mapping, Sequence
from operator import itemgetter

from search.analysis.published import published_accuracies
from search.database.snapshot import Overview
from search.reporting.fitted_table import FittedTable
from search.study.epoch import Epoch
from search.study.study import Study


def best_of(what: str, n_epochs: int) -> str:
    """Return a column heading, such as `best of 2 epochs`."""
    return f"{what} of {_epochs(n_epochs)}"


def setting(study: Study) -> str:
    """Return the training images and epochs of a study's trials, in words."""
    return f"{study.trained_on}, {_epochs(study.epochs)}"


def caption(study: Study) -> str:
    """Return a caption for tables of published figures beside the metrics of `study`.

    Empty if nothing was published.
    """
    if not study.published_figures:
        return ""
    theirs = published_epochs(study)
    said = f"Ours: {setting(study)}. Published: up to {_epochs(theirs)}."
    if study.incomparable:
        return f"{said} Not comparable: ours are {study.incomparable}."
    if study.epochs != theirs:
        return f"{said} Compare values after the same epoch, not the best ones."
    return said


def published_epochs(study: Study) -> int:
    """Return the last epoch with published figures; 0 if there is none."""
    return max((epoch for _, epoch in study.published_figures), default=0)


def variants(overview: Overview, study: Study) -> FittedTable:
    """Return a table with a row for each variant of the study; missing values are empty.

    A narrow terminal drops accuracies before the epochs that they belong to.
    """
    ours, theirs = best_of("best", study.epochs), best_of("published best", published_epochs(study))
    same = "published, same epoch"
    trials = overview.variants
    rows = []
    for name in study.variants:
        trial = trials.get(name)
        recorded = overview.of(trial) if trial else []
        tested, known = measured(recorded), published_accuracies(study, name)
        best, last = best_epoch(tested), max(tested, default=0)
        row = {
            "variant": name,
            "trial": str(trial.number) if trial else "",
            "state": trial.state.name if trial else "not enqueued",
            "epochs": f"{len(recorded)} of {study.epochs}",
            "test accuracy": fraction(tested.get(last)),
            ours: f"{best[1]:.4f} ({best[0]})" if best else "",
        }
        if study.published_figures:
            row[same] = fraction(known.get(last))
            row[theirs] = fraction(max(known.values(), default=None))
        rows.append(row)
    return FittedTable(
        title="Variants",
        rows=rows,
        texts=["trial", "state"],
        droppable=[ours, "trial", theirs, "state", same, "epochs"],
    )


def measured(epochs: Sequence[Epoch]) -> Mapping[int, float]:
    """Return our test accuracies by epoch."""
    return {e.number: e.test_accuracy for e in epochs if e.test_accuracy is not None}


def best_epoch(accuracies: Mapping[int, float]) -> tuple[int, float] | None:
    """Return the first epoch with the highest accuracy, and this accuracy."""
    return max(accuracies.items(), key=itemgetter(1), default=None)


def fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' if n != 1 else ''}"
