"""The results of a search so far, as tables for a terminal or a log file."""

from functools import partial

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType

from search.analysis.answer import Answer
from search.analysis.savings import Savings
from search.analysis.ties import Ties
from search.database.snapshot import Overview
from search.reporting import variant_tables
from search.reporting.choices import ChoicesTable
from search.reporting.notes import BEST
from search.reporting.status import count_text
from search.study.metrics import number
from search.study.study import Study
from search.study.trial_attributes import label

COLUMNS = 160
NOTEBOOK_COLUMNS = 110


def summary(overview: Overview, study: Study, answer: Answer) -> RenderableType:
    """Return the best trials, the variants, and the savings of pruning."""
    parts: list[RenderableType] = []
    if overview.ranked:
        parts.append(_best(overview, study, answer))
    variants = variant_tables.variants(overview, study)
    if variants.rows:
        parts.append(variants)
        if study.published_figures:
            parts.append(variant_tables.caption(study))
    parts.append(_counts(overview, study))
    told = overview.told
    parts += [f"Trial {label(t)}: {told[t.number]}" for t in overview.trials if t.number in told]
    if overview.ranked:
        parts.append(answer.text or study.caution)
    return Group(*parts)


def console() -> Console:
    """Return a console on standard output: of the terminal's width, else so wide that a trial's
    choices fit.

    It interprets no markup, since a variant may be called `a[/b]`. In a notebook it prints plain
    text, since a cell would have an output of its own for each line.
    """
    plain = partial(Console, highlight=False, markup=False)
    out = plain()
    if out.is_jupyter:
        return plain(force_jupyter=False, force_terminal=False, width=NOTEBOOK_COLUMNS)
    return out if out.is_terminal else plain(width=COLUMNS)


def _best(overview: Overview, study: Study, answer: Answer) -> ChoicesTable:
    selection, final = study.objective.words, study.final  # they may be the same column
    ties = Ties.of(study, overview.ranked, answer)
    trials = answer.leading(overview.ranked, BEST)
    rows = []
    for trial in trials:
        row = {"trial": label(trial), selection: ties.marked(trial)}
        if final.words != selection:
            row[final.words] = number(overview.of(trial)[-1].metrics.get(final.metric))
        if answer.standings:
            standing = answer.standings.get(trial.number)
            row["with fresh seeds"] = "" if standing is None else str(standing.honest)
        rows.append(row)
    how = "over fresh seeds, then by" if answer.is_of_reruns else "by"
    return ChoicesTable(
        title=f"Best trials {how} {selection} ({variant_tables.setting(study)})",
        text=ties.text,
        trials=trials,
        rows=rows,
        droppable=[final.words] if final.words != selection else [],
    )


def _counts(overview: Overview, study: Study) -> str:
    count, n_ended = overview.counts, len(overview.finished)
    begun, waiting, budget = count[TrialState.RUNNING], count[TrialState.WAITING], study.budget
    is_spent = budget.is_spent(trials=n_ended, epochs=overview.n_recorded)
    of_trials = "" if budget.trials is None else f" of {budget.trials}"
    n_recorded = sum(map(len, overview.epochs.values()))
    n_audit = n_recorded - overview.n_recorded
    of_audit = f", {n_audit} of them for the audit" if n_audit else ""
    of_epochs = "" if budget.epochs is None else f"; the budget is {budget.epochs}"
    savings = Savings.of(overview)
    ran = str(savings) if savings.epochs_possible else f"{overview.n_recorded} recorded"
    if 0 < savings.epochs_run < n_recorded:
        ran += f", {n_recorded} with canceled and unfinished trials"
    saved = "" if not savings.seconds_saved else f"; pruning saved {savings.saved_text}"
    return (
        f"Trials: {n_ended}{of_trials} finished: {count[TrialState.COMPLETE]} complete, "
        f"{count_text(overview, TrialState.PRUNED)}; {count_text(overview, TrialState.FAIL)}"
        + (f"; {waiting} waiting" if waiting else "")
        + (f"; {begun} interrupted" if begun else "")
        + (" for a larger budget" if waiting + begun and is_spent else "")
        + f".\nEpochs: {ran}{of_audit}{of_epochs}{saved}."
    )
