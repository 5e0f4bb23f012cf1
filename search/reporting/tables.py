"""The text and tables of a report, in any format."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from optuna.trial import FrozenTrial, TrialState

from search.analysis.published import RULE
from search.reporting.report_data import ReportData
from search.reporting.variant_tables import best_of, caption, published_epochs, setting
from search.study.choices import params_text
from search.study.trial_attributes import ENVIRONMENTS, REASON, label

BEST = 10
"""Maximum number of best trials listed."""
RERUN = "python -m search.reproduce {options} --trial {trial} --repeats 5"


@dataclass(frozen=True, kw_only=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """Number of text columns, from the left; the others hold numbers."""


def answer(findings: ReportData) -> list[tuple[str, str]]:
    """Return the result of the search, as pairs of a name and a value."""
    best = findings.best
    if best is None:
        return [("Best trial", "none complete yet"), ("Trials", counts(findings))]
    standing = findings.standings.get(best.number)
    honest = "unknown: not yet trained again with fresh seeds"
    if standing is not None:
        seeds = f"{standing.honest.n} fresh seed{'s' if standing.honest.n > 1 else ''}"
        honest = f"{standing.honest} over {seeds}"
    return [
        ("Best trial", label(best)),
        (f"{findings.study.select.capitalize()} accuracy in the search", f"{best.values[0]:.4f}"),
        ("Test accuracy of re-runs", honest),
        ("Choices", params_text(best.params)),
        *_tied(findings),
        *_unproven(findings),
        ("Trials", counts(findings)),
    ]


def rerun_command(findings: ReportData) -> str | None:
    """Return the command that re-runs the search's first-ranked trial with fresh seeds; None if it
    has re-runs."""
    not_rerun = findings.answer.not_rerun
    if not_rerun is None:
        return None
    trial = str(not_rerun.number) if findings.standings else "best"
    return RERUN.format(options=findings.options, trial=trial)


def counts(findings: ReportData) -> str:
    """Return the number of trials in each state."""
    trials = findings.overview.trials
    number = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    parts = [
        f"{len(findings.overview.ranked)} complete",
        f"{findings.savings.pruned} pruned",
        f"{findings.savings.diverged} diverged",
        f"{number[TrialState.FAIL]} failed",
    ]
    others = len(findings.overview.finished) - len(findings.overview.ended_here)
    if others:
        parts.append(f"{others} finished outside the service")
    begun = number[TrialState.RUNNING] + number[TrialState.WAITING]
    return ", ".join(parts) + (f", {begun} unfinished" if begun else "")


def best_trials(findings: ReportData) -> Table:
    """Return the best trials, with the results of their re-runs if there are any."""
    return Table(
        columns=("trial", "choices", f"{findings.study.select} accuracy", "with fresh seeds"),
        rows=[
            (label(trial), params_text(trial.params), f"{trial.values[0]:.4f}", honest)
            for trial in findings.overview.ranked[:BEST]
            for honest in (_honest(findings, trial),)
        ],
        texts=2,
    )


def variants(findings: ReportData) -> Table:
    """Return the variants' best accuracies, published and ours, and the verdicts."""
    rows: list[tuple[str, ...]] = []
    for name in findings.variants:
        runs = findings.reproduced[name].values()
        verdict = findings.verdicts.get(name)
        last = [epochs[-1].test_accuracy for epochs in runs if epochs]
        known = [accuracy for accuracy in last if accuracy is not None]
        rows.append(
            (
                name,
                setting(findings.trained[name]),
                verdict.text if verdict else "",
                str(len(runs)),
                f"{verdict.published_best:.4f}" if verdict else "",
                str(verdict.best) if verdict else "",
                f"{sum(known) / len(known):.4f}" if known else "",
            )
        )
    columns: tuple[str, ...] = (
        "variant", "trained on", "verdict", "seeds",
        best_of("published best", published_epochs(findings.study)), "our best",
        "our last epoch, mean",
    )  # fmt: skip
    if not findings.verdicts:  # no published figures
        own = (0, 1, 3, 6)
        columns = tuple(columns[place] for place in own)
        rows = [tuple(row[place] for place in own) for row in rows]
        return Table(columns=columns, rows=rows, texts=2)
    return Table(columns=columns, rows=rows, texts=3)


def compared(findings: ReportData) -> str:
    """Return a caption for the table of variants, with the rule of the comparison; empty if there
    is nothing to compare."""
    if not findings.verdicts:
        return ""
    captions = dict.fromkeys(caption(findings.trained[name]) for name in findings.verdicts)
    rule = [] if all(one.incomparable for one in findings.verdicts.values()) else [RULE]
    return " ".join([*captions, *rule])


def savings(findings: ReportData) -> Table:
    """Return the epochs and the time saved by pruning."""
    saved = findings.savings
    return Table(
        columns=("", "epochs", "time, all workers"),
        rows=[
            ("run", str(saved.epochs_run), _duration(saved.seconds_run)),
            ("saved by pruning", str(saved.epochs_saved), _duration(saved.seconds_saved)),
            ("possible", str(saved.epochs_possible), ""),
        ],
    )


def failures(findings: ReportData) -> Table:
    """Return the failed and diverged trials, with their reasons."""
    return Table(
        columns=("trial", "state", "reason", "choices"),
        rows=[
            (
                label(trial),
                "FAIL" if trial.state == TrialState.FAIL else "diverged",
                str(trial.user_attrs.get(REASON, "not recorded")),
                params_text(trial.params),
            )
            for trial in findings.failures
        ],
        texts=4,
    )


def environments(findings: ReportData) -> Table:
    """Return the environments that trials were trained in, and the number of trials in each."""
    names = ("device", "threads", "precision", "torch", "cuda", "code")
    number = Counter(
        tuple("" if environment.get(name) is None else str(environment[name]) for name in names)
        for trial in findings.overview.trials
        for environment in trial.user_attrs.get(ENVIRONMENTS, [])
    )
    rows = [(*environment, str(n)) for environment, n in number.most_common()]
    return Table(columns=(*names, "trials"), rows=rows, texts=len(names))


def _tied(findings: ReportData) -> list[tuple[str, str]]:
    tied = ", ".join(map(str, findings.answer.tied))
    return [("Tied with", f"trial {tied}, with fresh seeds")] if tied else []


def _unproven(findings: ReportData) -> list[tuple[str, str]]:
    """Return the search's first-ranked trial, if it has no re-runs and is not the answer."""
    first = findings.answer.not_rerun
    if first is None or first is findings.best:
        return []
    text = f"trial {label(first)}, {first.values[0]:.4f}; not yet trained again with fresh seeds"
    return [("Highest in the search", text)]


def told(findings: ReportData) -> Table:
    """Return the trials that other programs finished, with what was measured here."""
    return Table(
        columns=("trial", "outcome", "choices"),
        rows=[
            (label(trial), findings.overview.told[trial.number], params_text(trial.params))
            for trial in findings.overview.trials
            if trial.number in findings.overview.told
        ],
        texts=3,
    )


def _honest(findings: ReportData, trial: FrozenTrial) -> str:
    standing = findings.standings.get(trial.number)
    if standing is None:
        return ""
    verdict = standing.verdict if len(findings.standings) > 1 else ""
    return f"{standing.honest}, n = {standing.honest.n}" + (f": {verdict}" if verdict else "")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
