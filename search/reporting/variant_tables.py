"""Comparison of a study's variants with their published metrics, for tables and notes."""

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.analysis.published import published_values
from search.database.snapshot import Overview
from search.reporting.fitted_table import FittedTable
from search.study.metrics import Epoch, number
from search.study.study import Study


def best_of(what: str, n_epochs: int) -> str:
    """Return a column heading, such as `best of 2 epochs`."""
    return f"{what} of {_epochs(n_epochs)}"


def setting(study: Study) -> str:
    """Return the data and epochs of a study's trials, in words."""
    return ", ".join(filter(None, (study.trained_on, _epochs(study.epochs))))


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
    """Return a table with a row for each variant of the study, and for each optional one that has a
    trial; missing values are empty.

    A narrow terminal drops values before the epochs that they belong to.
    """
    ours, theirs = best_of("best", study.epochs), best_of("published best", published_epochs(study))
    same = "published, same epoch"
    trials = overview.variants
    rows = []
    for name in study.every_variant:
        trial = trials.get(name)
        if trial is None and name not in study.variants:
            continue
        recorded = overview.of(trial) if trial else []
        tested, known = measured(study, recorded), published_values(study, name)
        best, last = best_epoch(study, tested), max(tested, default=0)
        theirs_best = best_epoch(study, known)
        row = {
            "variant": name,
            "trial": str(trial.number) if trial else "",
            "state": _state(overview, trial) if trial else "not enqueued",
            "epochs": f"{len(recorded)} of {study.epochs}",
            study.final.words: number(tested.get(last)),
            ours: f"{number(best[1])} ({best[0]})" if best else "",
        }
        if study.published_figures:
            row[same] = number(known.get(last))
            row[theirs] = number(theirs_best[1] if theirs_best else None)
        rows.append(row)
    usual = {"state": {"COMPLETE"}, "epochs": {f"{study.epochs} of {study.epochs}"}}
    for name, texts in usual.items():
        if {row[name] for row in rows} == texts:
            for row in rows:
                del row[name]
    return FittedTable(
        title="Variants",
        rows=rows,
        texts=["trial", "state"],
        droppable=[ours, "trial", theirs, "state", same, "epochs"],
    )


def _state(overview: Overview, trial: FrozenTrial) -> str:
    is_interrupted = trial.state == TrialState.RUNNING and trial.number not in overview.leases
    return "INTERRUPTED" if is_interrupted else trial.state.name


def measured(study: Study, epochs: Sequence[Epoch]) -> Mapping[int, float]:
    """Return our values of the study's final metric by epoch."""
    metric = study.final.metric
    return {epoch.number: epoch.metrics[metric] for epoch in epochs if metric in epoch.metrics}


def best_epoch(study: Study, values: Mapping[int, float]) -> tuple[int, float] | None:
    """Return the first epoch with the best value, and this value."""
    return max(values.items(), key=lambda one: study.final.score(one[1]), default=None)


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' if n != 1 else ''}"
