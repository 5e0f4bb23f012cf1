"""What a search has found so far, as tables for a terminal or a log file."""

from collections.abc import Mapping

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.table import Table

from search.choices import Choices
from search.epoch import Epoch
from search.overview import Overview, label
from search.savings import Savings
from search.study import Study
from search.trials import VARIANT

BEST = 5
"""How many trials the table of the best ones holds."""


def summary(overview: Overview, study: Study) -> RenderableType:
    """Return the best trials, the variants, and what pruning saved."""
    parts: list[RenderableType] = []
    if overview.ranked:
        parts.append(_best(overview, study))
    if study.variants:
        parts.append(_variants(overview, study))
    parts.append(_counts(overview, study))
    if overview.ranked:
        parts.append(caution(study))
    return Group(*parts)


def console() -> Console:
    """Return standard output, wide enough for a trial's choices where it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)


def _best(overview: Overview, study: Study) -> Table:
    validation = study.select == "validation"
    table = _table(f"Best trials by {study.select} accuracy", "trial", f"{study.select} accuracy")
    if validation:
        table.add_column("test accuracy", justify="right")
    table.add_column("choices", overflow="fold")
    for trial in overview.ranked[:BEST]:
        test = [_fraction(overview.of(trial)[-1].test_accuracy)] if validation else []
        table.add_row(label(trial), _fraction(trial.values[0]), *test, str(Choices(**trial.params)))
    return table


def _variants(overview: Overview, study: Study) -> Table:
    published = study.published_figures
    table = _table("Variants", "variant", "trial", "state", "epochs", "test accuracy", "best epoch")
    if published:
        table.add_column("report, same epoch", justify="right")
        table.add_column("report's best", justify="right")
    trials = _by_variant(overview)
    for name in study.variants:
        trial = trials.get(name)
        recorded = overview.of(trial) if trial else []
        tested = [epoch for epoch in recorded if epoch.test_accuracy is not None]
        report: list[str] = []
        if published:
            theirs = {
                epoch: figures["test_accuracy"]
                for (who, epoch), figures in published.items()
                if who == name
            }
            report = [
                _fraction(theirs.get(tested[-1].number)) if tested else "",
                _fraction(max(theirs.values(), default=None)),
            ]
        table.add_row(
            name,
            str(trial.number) if trial else "",
            trial.state.name if trial else "not enqueued",
            f"{len(recorded)} of {study.epochs}",
            _fraction(tested[-1].test_accuracy) if tested else "",
            _best_epoch(tested),
            *report,
        )
    return table


def _counts(overview: Overview, study: Study) -> str:
    count = {
        state: sum(trial.state == state for trial in overview.trials)
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING)
    }
    ended = overview.finished
    waiting = count[TrialState.WAITING]
    return (
        f"Trials: {len(ended)} of {study.trials} finished: {count[TrialState.COMPLETE]} complete, "
        f"{count[TrialState.PRUNED]} pruned; {count[TrialState.FAIL]} failed"
        + (f"; {waiting} waiting" if waiting else "")
        + (" for a higher --trials" if waiting and len(ended) >= study.trials else "")
        + f".\nEpochs: {Savings.of(overview, study.epochs)}."
    )


def caution(study: Study) -> str:
    """Return what a reader of the best trial's accuracy must know."""
    if study.select == "validation":
        return "Trials were chosen on held-out training images; test accuracy was measured once."
    return (
        "The best of many trials on the test set is optimistic: train the winner again with fresh "
        "seeds before you quote it."
    )


def _by_variant(overview: Overview) -> Mapping[str, FrozenTrial]:
    """Return each variant's trial; of several the last, since those before it failed."""
    return {t.user_attrs[VARIANT]: t for t in overview.trials if VARIANT in t.user_attrs}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column.endswith(("accuracy", "epochs"))
        table.add_column(column, justify="right" if number else "left")
    return table


def _best_epoch(tested: list[Epoch]) -> str:
    if not tested:
        return ""
    best = max(tested, key=lambda epoch: epoch.test_accuracy or 0.0)
    return f"{_fraction(best.test_accuracy)} ({best.number})"


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
