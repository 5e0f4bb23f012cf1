"""Comparison of our runs of the variants with published runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from search.analysis.rerun_metrics import Repeats, Spread
from search.study.metrics import Objective
from search.study.study import Study

LEVEL = 0.95


def rule(final: Objective) -> str:
    """Return how published curves are judged, as text."""
    return (
        f"Rule: a published curve is inside if its {final.words} lies, at every epoch, in the "
        "prediction interval for one more of our runs, with a joint probability of at least 95 % "
        "(mean ± t·sd·√(1 + 1/n), t with n - 1 degrees of freedom, 95 % divided among the epochs). "
        "By chance, one run in twenty is outside; with two or three seeds, only a gross difference "
        "is."
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a variant's published curve lies inside the prediction interval of our runs."""

    variant: str
    n: int
    compared: int
    """Number of epochs that both have."""
    within: int
    """Number of epochs at which the published value is between our minimum and maximum."""
    outside: list[int]
    """Epochs at which it is outside the joint prediction interval."""
    best: Spread
    """Best value of any epoch, over our runs."""
    published_best: float
    incomparable: str | None = None
    """See `Study.incomparable`; if set, there is no verdict."""

    @property
    def text(self) -> str:
        if self.incomparable:
            return f"not comparable: {self.incomparable}"
        if self.n < 2:
            return "one seed: no verdict"
        if not self.outside:
            return "inside"
        return f"outside at epoch {', '.join(map(str, self.outside))}"


def spreads(runs: Repeats, variant: str, figure: str) -> dict[int, Spread]:
    """Return the spread of the metric `figure` over a variant's runs, by epoch."""
    values: dict[int, list[float]] = {}
    for epochs in runs.get(variant, {}).values():
        for epoch in epochs:
            value = epoch.metrics.get(figure)
            if value is not None:
                values.setdefault(epoch.number, []).append(value)
    return {number: Spread.of(found) for number, found in sorted(values.items())}


def published_values(study: Study, variant: str) -> Mapping[int, float]:
    """Return the published values of the study's final metric for a variant by epoch."""
    metric, published = study.final.metric, study.published_for(variant)
    return {epoch: metrics[metric] for epoch, metrics in published.items() if metric in metrics}


def verdict(runs: Repeats, study: Study, variant: str) -> Verdict | None:
    """Return the verdict according to `rule` on runs of `study`; None if ours and the published
    ones have no epoch in common."""
    metric, score = study.final.metric, study.final.score
    theirs = published_values(study, variant)
    ours = spreads(runs, variant, metric)
    both = sorted(theirs.keys() & ours.keys())
    if not both:
        return None
    level = 1 - (1 - LEVEL) / len(both)
    intervals = {epoch: ours[epoch].prediction_interval(level) for epoch in both}
    best = [
        max((epoch.metrics[metric] for epoch in epochs if metric in epoch.metrics), key=score)
        for epochs in runs[variant].values()
        if any(metric in epoch.metrics for epoch in epochs)
    ]
    return Verdict(
        variant=variant,
        n=len(best),
        compared=len(both),
        within=sum(ours[e].lowest <= theirs[e] <= ours[e].highest for e in both),
        outside=[e for e, (low, high) in intervals.items() if not low <= theirs[e] <= high],
        best=Spread.of(best),
        published_best=max(theirs.values(), key=score),
        incomparable=study.incomparable,
    )
