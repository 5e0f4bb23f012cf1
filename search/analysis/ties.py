"""Trials of one search that the finite test set cannot tell from the best one.

This is about one training of each: once re-runs compare several trials, their paired test decides,
see `search.analysis.paired_test`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from optuna.trial import FrozenTrial

from search.analysis.answer import Answer
from search.study.metrics import number, split
from search.study.study import Study

TOP = 5
"""The number of the best trials that are proposed for re-runs if there are ties."""
ERRORS = 2
"""A tie is within so many standard errors."""


@dataclass(frozen=True, kw_only=True)
class Ties:
    """The trials that are tied with the best one of a search."""

    numbers: frozenset[int] = frozenset()
    """Without the best one's."""
    text: str = ""
    """What a difference is worth, and what the mark means."""

    @classmethod
    def of(cls, study: Study, ranked: Sequence[FrozenTrial], answer: Answer) -> Self:
        """Return the ties among completed trials of the study, best first; none once re-runs
        compare several trials, as `answer` tells.

        The standard error of an accuracy p over n examples is the binomial sqrt(p (1 - p) / n),
        with the best trial's p. Any other metric, and an accuracy whose n is unknown, is tied only
        if it is the same.
        """
        if not ranked or answer.is_of_reruns:
            return cls()
        best, n = ranked[0].values[0], study.trainer.n_examples(study.metric)
        margin = 0.0
        if n is not None and 0 <= best <= 1:
            margin = ERRORS * math.sqrt(best * (1 - best) / n)
        tied = frozenset(t.number for t in ranked[1:] if abs(best - t.values[0]) <= margin)
        if margin == 0:
            return cls(numbers=tied, text="= marks the same value as the best." if tied else "")
        told = f"{n:,} {split(study.metric)[0]} {study.trainer.examples}"
        marks = "; = marks such a tie with the best" if tied else ""
        return cls(
            numbers=tied,
            text=f"A difference up to {number(margin)} is within twice the standard error of "
            f"{told}{marks}.",
        )

    @property
    def to_run_again(self) -> str:
        """The options of `search.reproduce` that select the best trial, or also its ties."""
        return f"--top {TOP}" if self.numbers else "--trial best"

    def marked(self, trial: FrozenTrial) -> str:
        """Return the trial's value as text, with a mark if it is tied."""
        return f"{'= ' if trial.number in self.numbers else ''}{number(trial.values[0])}"
