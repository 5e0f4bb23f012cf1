"""The variants of a study beside their published figures, as a table's rows."""

from collections.abc import Iterator, Mapping, Sequence

from optuna.trial import FrozenTrial

from search.epoch import Epoch
from search.study import Study

COLUMNS = ("variant", "trial", "state", "epochs", "test accuracy", "best epoch")
PUBLISHED_COLUMNS = ("report, same epoch", "report's best")
"""Where figures were published."""
LEAST_IMPORTANT = ("best epoch", "trial", "report's best", "state", "report, same epoch", "epochs")
"""What a narrow terminal has no room for, first to go first; figures stand beside their epochs."""


def columns(study: Study) -> Sequence[str]:
    return (*COLUMNS, *(PUBLISHED_COLUMNS if study.published_figures else ()))


def rows(
    study: Study, trials: Mapping[str, FrozenTrial], epochs: Mapping[int, Sequence[Epoch]]
) -> Iterator[Sequence[str]]:
    """Yield a row for each variant of the study; a figure that is not there yet is empty.

    `trials` are by the name of the variant, `epochs` by the trial's number.
    """
    for name in study.variants:
        trial = trials.get(name)
        recorded = epochs.get(trial.number, ()) if trial else ()
        tested = [epoch for epoch in recorded if epoch.test_accuracy is not None]
        last = tested[-1] if tested else None
        row = (
            name,
            str(trial.number) if trial else "",
            trial.state.name if trial else "not enqueued",
            f"{len(recorded)} of {study.epochs}",
            fraction(last.test_accuracy) if last else "",
            _best_epoch(tested),
        )
        if not study.published_figures:
            yield row
            continue
        theirs = published(study, name)
        same = theirs.get(last.number) if last else None
        yield (*row, fraction(same), fraction(max(theirs.values(), default=None)))


def published(study: Study, name: str) -> Mapping[int, float]:
    """Return the published test accuracies of a variant by epoch."""
    figures = study.published_for(name)
    return {epoch: found["test_accuracy"] for epoch, found in figures.items()}


def fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _best_epoch(tested: Sequence[Epoch]) -> str:
    if not tested:
        return ""
    best = max(tested, key=lambda epoch: epoch.test_accuracy or 0.0)
    return f"{fraction(best.test_accuracy)} ({best.number})"
