"""The audit of pruning: how pruned trials ended that were run to their last epoch all the same.

They are a random share of those that were pruned for their metric; see
`search.study.study.Study.audit`. They are compared with the trials that pruning let through:
sampled trials that completed without an audit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Self

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_internals import FIXED_PARAMS
from search.database.snapshot import Overview
from search.study.pruners import Promotion
from search.study.trial_attributes import AUDITED, RUNG, is_fixed


@dataclass(frozen=True, kw_only=True)
class RungAudit:
    """The audit of one rung."""

    rung: int
    """The epoch."""
    pruned: int
    """Number of trials that were pruned at the rung, including the audited ones."""
    audited: int
    """Number of those that were run to their end."""
    diverged: int
    """Number of the audited that diverged on their way."""
    above_median: int
    """Number of the audited that ended better than the median of the trials let through."""
    above_best: int
    """Number of the audited that ended better than the best of the trials let through."""
    let_through: int
    """Number of the trials let through."""
    correlation: float
    """Spearman's rank correlation of what the rung compares and the metric at the end, over the
    audited trials and those let through; NaN for fewer than three, or if all are equal."""

    @classmethod
    def of(cls, overview: Overview, rung: int, loss: str | None) -> Self:
        """`loss` is the metric that the rung compares, lower is better; None for the study's."""
        pruned, audited = [], []
        known = {trial.number for trial in overview.ended_here}
        for trial in overview.trials:
            if trial.user_attrs.get(AUDITED) == rung and trial.number in known:
                audited.append(trial)
            elif trial.user_attrs.get(RUNG) == rung:
                pruned.append(trial)
        ended = [trial for trial in audited if overview.value(trial) is not None]
        through = list(_let_through(overview))
        bars = [_score(overview, trial) for trial in through]
        scores = [_score(overview, trial) for trial in ended]
        pairs = [
            (_compared(overview, trial, rung, loss), _score(overview, trial))
            for trial in (*ended, *through)
        ]
        both = [(at_rung, at_end) for at_rung, at_end in pairs if at_rung is not None]
        return cls(
            rung=rung,
            pruned=len(pruned) + len(audited),
            audited=len(audited),
            diverged=len(audited) - len(ended),
            above_median=sum(score > median(bars) for score in scores) if bars else 0,
            above_best=sum(score > max(bars) for score in scores) if bars else 0,
            let_through=len(through),
            correlation=_spearman([at_rung for at_rung, _ in both], [at_end for _, at_end in both]),
        )


def audits(overview: Overview, pruner: BasePruner) -> list[RungAudit]:
    """Return the audits of the rungs at which audited trials were pruned, by rung."""
    promotion = pruner if isinstance(pruner, Promotion) else Promotion()
    rungs = {
        trial.user_attrs[AUDITED] for trial in overview.ended_here if AUDITED in trial.user_attrs
    }
    return [RungAudit.of(overview, rung, promotion.loss_at(rung)) for rung in sorted(rungs)]


def _let_through(overview: Overview) -> Iterator[FrozenTrial]:
    for trial in overview.ranked:
        is_sampled = not is_fixed(trial) and FIXED_PARAMS not in trial.system_attrs
        if is_sampled and AUDITED not in trial.user_attrs and trial.state == TrialState.COMPLETE:
            yield trial


def _compared(overview: Overview, trial: FrozenTrial, rung: int, loss: str | None) -> float | None:
    """Return what the rung compares, such that higher is better; None if it was not measured, as of
    a trial that was begun under another pruner."""
    if loss is None:
        return _score(overview, trial, rung)
    found = overview.of(trial)[rung - 1].metrics.get(loss)
    return None if found is None else -found


def _score(overview: Overview, trial: FrozenTrial, epoch: int = 0) -> float:
    """Return the metric after `epoch`, or the last one, such that higher is better."""
    return overview.objective.score(overview.objective.value(overview.of(trial)[epoch - 1]))


def _spearman(first: list[float], second: list[float]) -> float:
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    from scipy.stats import spearmanr  # a second of work, of no use without an audit

    return float(spearmanr(first, second).statistic)
