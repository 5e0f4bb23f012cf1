"""The text and tables of a report, in any format."""

import math
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState

from search.analysis.answer import COLLAPSED, LEVEL
from search.analysis.published import rule
from search.analysis.ties import Ties
from search.reporting.choices import ChoicesTable
from search.reporting.fitted_table import FittedTable
from search.reporting.report_data import ReportData
from search.reporting.variant_tables import (
    best_of,
    caption,
    published_epochs,
    setting,
)
from search.study import trial_attributes
from search.study.metrics import number
from search.study.space import params_text
from search.study.trial_attributes import DIVERGED, ENVIRONMENT, REASON, label

AUDIT = (
    "A random share of the trials that were pruned for their metric, run to their last epoch after "
    "the search, against the sampled trials that pruning let through. The rank correlation is "
    "Spearman's, between what the rung compares and the metric at the end, over both."
)
"""Explains the table of audits."""
BEST = 10
"""Maximum number of best trials listed."""
NOT_RERUN = "not yet trained again with fresh seeds"


def answer(findings: ReportData) -> list[tuple[str, str]]:
    """Return the result of the search, as pairs of a name and a value."""
    study = findings.study
    best, first = findings.answer.best, findings.answer.not_rerun
    if best is None:
        return [("Best trial", "none complete yet"), ("Trials", counts(findings))]
    standing = findings.answer.standings.get(best.number)
    honest = f"unknown: {NOT_RERUN}"
    if standing is not None:
        seeds = f"{standing.honest.n} fresh seed{'s' if standing.honest.n > 1 else ''}"
        honest = f"{standing.honest} over {seeds}"
    found = [
        ("Best trial", label(best)),
        (f"{study.objective.words.capitalize()} in the search", number(best.values[0])),
        (f"{study.final.words.capitalize()} of re-runs", honest),
        ("Choices", params_text(best.params)),
    ]
    if (confirmed := findings.answer.confirmed) is not None:
        spread = confirmed.unused
        found[2:3] = [
            (
                f"{study.final.words.capitalize()} of {spread.n} unused seeds",
                f"{spread}; {LEVEL:.0%} interval of the mean {confirmed.interval_text}",
            ),
            ("Worst of these", number(confirmed.worst, beside=spread.mean)),
            ("Collapsed of these", f"{confirmed.collapsed} of {spread.n}. {COLLAPSED}"),
            ("Won with", confirmed.won_text),
        ]
    if findings.answer.tied:
        found.append(("Tied with", findings.answer.tied_text))
    if first is not None and first is not best:
        top = "Highest" if study.direction == "maximize" else "Lowest"
        value = number(first.values[0])
        found.append((f"{top} in the search", f"trial {label(first)}, {value}; {NOT_RERUN}"))
    found.append(("Trials", counts(findings)))
    return [*found, *(("Note", change) for change in findings.changes)]


def rerun_command(findings: ReportData) -> str | None:
    """Return the command that re-runs the search's first-ranked trial with fresh seeds, and its
    ties; None if it has re-runs."""
    not_rerun = findings.answer.not_rerun
    if not_rerun is None:
        return None
    which = f"--trial {not_rerun.number}"
    if not findings.answer.standings:
        ties = Ties.of(findings.study, findings.overview.ranked, findings.answer)
        which = ties.to_run_again
    return findings.commands.line("search.reproduce", findings.options, which, "--repeats 5")


def counts(findings: ReportData) -> str:
    """Return the number of trials in each state."""
    count, canceled = findings.overview.counts, findings.overview.canceled
    parts = [
        f"{len(findings.overview.ranked)} complete",
        f"{findings.savings.pruned} pruned",
        f"{findings.savings.diverged} diverged",
        f"{count[TrialState.FAIL] - canceled[TrialState.FAIL]} failed",
    ]
    if canceled:
        parts.append(f"{canceled.total()} canceled")
    others = len(findings.overview.finished) - len(findings.overview.ended_here)
    others -= canceled[TrialState.PRUNED]
    if others:
        parts.append(f"{others} finished outside the service")
    begun = count[TrialState.RUNNING] + count[TrialState.WAITING]
    return ", ".join(parts) + (f", {begun} unfinished" if begun else "")


def best_trials(findings: ReportData) -> ChoicesTable:
    """Return the best trials, with the results of their re-runs if there are any."""
    overview, study, answer = findings.overview, findings.study, findings.answer
    trials = answer.leading(overview.ranked, BEST)
    ties = Ties.of(study, overview.ranked, answer)
    rows = []
    for trial in trials:
        row = {"trial": label(trial), study.objective.words: ties.marked(trial)}
        if answer.standings:
            row["with fresh seeds"] = _honest(findings, trial)
        rows.append(row)
    return ChoicesTable(title="The best trials", text=ties.text, trials=trials, rows=rows)


def variants(findings: ReportData) -> FittedTable:
    """Return the variants' best metrics, published and ours, and the verdicts."""
    theirs = best_of("published best", published_epochs(findings.study))
    rows = []
    for name in findings.variants:
        runs = findings.reproduced[name].values()
        verdict = findings.verdicts.get(name)
        last = [epochs[-1].metrics.get(findings.study.final.metric) for epochs in runs if epochs]
        known = [value for value in last if value is not None]
        row = {
            "variant": name,
            "trained on": setting(findings.trained[name]),
            "verdict": verdict.text if verdict else "",
            "seeds": str(len(runs)),
            theirs: number(verdict.published_best if verdict else None),
            "our best": str(verdict.best) if verdict else "",
            "our last epoch, mean": number(fmean(known) if known else None),
        }
        if not findings.verdicts:  # no published figures
            del row["verdict"], row[theirs], row["our best"]
        rows.append(row)
    if all(row["trained on"] == setting(findings.study) for row in rows):  # the page says it once
        for row in rows:
            del row["trained on"]
    return FittedTable(rows=rows, texts=["trained on", "verdict"])


def compared(findings: ReportData) -> str:
    """Return a caption for the table of variants, with the rule of the comparison; empty if there
    is nothing to compare."""
    if not findings.verdicts:
        return ""
    captions = dict.fromkeys(caption(findings.trained[name]) for name in findings.verdicts)
    how = (
        []
        if all(one.incomparable for one in findings.verdicts.values())
        else [rule(findings.study.final)]
    )
    return " ".join([*captions, *how])


def savings(findings: ReportData) -> FittedTable:
    """Return the epochs and the time saved by pruning."""
    saved = findings.savings
    rows = [
        ("run", saved.epochs_run, _duration(saved.seconds_run)),
        ("saved by pruning", saved.epochs_saved, _duration(saved.seconds_saved)),
        ("possible", saved.epochs_possible, ""),
    ]
    return FittedTable(
        rows=[{"": what, "epochs": str(n), "time, all workers": time} for what, n, time in rows]
    )


def audits(findings: ReportData) -> FittedTable:
    """Return how often pruning was wrong, a row for each rung."""
    return FittedTable(
        rows=[
            {
                "rung": f"epoch {one.rung}",
                "pruned": str(one.pruned),
                "audited": str(one.audited),
                "diverged": str(one.diverged),
                "let through": str(one.let_through),
                "better than their median": f"{one.above_median} of {one.audited}",
                "better than their best": f"{one.above_best} of {one.audited}",
                "rank correlation": (
                    "" if math.isnan(one.correlation) else f"{one.correlation:.2f}"
                ),
            }
            for one in findings.audits
        ]
    )


def failures(findings: ReportData) -> FittedTable:
    """Return the failed and diverged trials, with their reasons."""
    return FittedTable(
        rows=[
            _row(
                trial,
                state="FAIL" if trial.state == TrialState.FAIL else "diverged",
                reason=str(trial.user_attrs.get(REASON, "not recorded")),
            )
            for trial in findings.overview.trials
            if trial.state == TrialState.FAIL or DIVERGED in trial.user_attrs
        ],
        texts=["state", "reason", "choices"],
    )


def environments(findings: ReportData) -> FittedTable:
    """Return the environments that trials were trained in, and the number of trials in each."""
    trials = findings.overview.trials
    found = [one for trial in trials for one in trial_attributes.environments(trial)]
    names = list(ENVIRONMENT)
    if not any(one.get("packages") for one in found):  # only those of study files are known
        names.remove("packages")
    count = Counter(
        tuple("" if one.get(name) is None else str(one[name]) for name in names) for one in found
    )
    return FittedTable(
        rows=[
            dict(zip(names, environment, strict=True), trials=str(n))
            for environment, n in count.most_common()
        ],
        texts=names,
    )


def told(findings: ReportData) -> FittedTable:
    """Return the trials that other programs finished, with what was measured here."""
    told = findings.overview.told
    return FittedTable(
        rows=[
            _row(trial, outcome=told[trial.number])
            for trial in findings.overview.trials
            if trial.number in told
        ],
        texts=["outcome", "choices"],
    )


def _row(trial: FrozenTrial, **cells: str) -> Mapping[str, str]:
    return {"trial": label(trial), **cells, "choices": params_text(trial.params)}


def _honest(findings: ReportData, trial: FrozenTrial) -> str:
    standing = findings.answer.standings.get(trial.number)
    if standing is None:
        return ""
    answer = findings.answer
    verdict = standing.verdict if answer.is_of_reruns else ""
    if verdict and answer.best is not None and trial.number == answer.best.number:
        verdict = "best"
    return f"{standing.honest}, n = {standing.honest.n}" + (f": {verdict}" if verdict else "")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
