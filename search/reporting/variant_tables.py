"""Table rows that compare a study's variants with their published metrics."""

from collections.abc import Iterator, Mapping, Sequence

from optuna.trial import FrozenTrial

from search.study.epoch import Epoch
from search.study.study import Study


def columns(study: Study) -> Sequence[str]:
    own = ("variant", "trial", "state", "epochs", "test accuracy", best_of("best", study.epochs))
    if not study.published_figures:
        return own
    return (*own, "published, same epoch", best_of("published best", published_epochs(study)))


def least_important(study: Study) -> Sequence[str]:
    """Return the columns that a narrow terminal drops, in this order. Accuracies are dropped before
    the epochs that they belong to."""
    *_, epochs, _, ours = (own := columns(study))[:6]
    same, theirs = own[6:] or ("", "")
    return [name for name in (ours, "trial", theirs, "state", same, epochs) if name]


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


def rows(
    study: Study, trials: Mapping[str, FrozenTrial], epochs: Mapping[int, Sequence[Epoch]]
) -> Iterator[Sequence[str]]:
    """Yield a row for each variant of the study; missing values are empty.

    `trials` are by variant name, `epochs` by trial number.
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
    metrics = study.published_for(name)
    return {epoch: found["test_accuracy"] for epoch, found in metrics.items()}


def fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' if n != 1 else ''}"


def _best_epoch(tested: Sequence[Epoch]) -> str:
    if not tested:
        return ""
    best = max(tested, key=lambda epoch: epoch.test_accuracy or 0.0)
    return f"{fraction(best.test_accuracy)} ({best.number})"
