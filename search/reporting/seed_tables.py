"""Tables that compare runs over several seeds, with published figures and with each other."""

from collections.abc import Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial
from rich import box
from rich.console import Group, RenderableType

from search.analysis import paired_test, published
from search.analysis.paired_test import Standing
from search.analysis.published import Verdict, spreads, verdict
from search.analysis.rerun_metrics import Repeats
from search.reporting.fitted_table import FittedTable
from search.reporting.variant_tables import (
    best_of,
    caption,
    published_epochs,
    setting,
)
from search.study.metrics import number, split, words
from search.study.space import params_text
from search.study.study import Study
from search.study.trial_attributes import label


def comparison(runs: Repeats, study: Study) -> RenderableType:
    """Return a table of all epochs for each variant, and one of the variants: the verdicts, or else
    the final metric over the seeds.

    `study` is the study that the runs were trained as.
    """
    variants = [name for name in study.every_variant if name in runs]
    parts: list[RenderableType] = [_epochs(runs, study, name) for name in variants]
    found = {name: verdict(runs, study, name) for name in variants}
    verdicts = [one for one in found.values() if one]
    if unpublished := [name for name, one in found.items() if not one]:
        parts.append(_finals(runs, study, unpublished))
    if verdicts:
        parts += [_verdicts(verdicts, study), caption(study)]
    if verdicts and not study.incomparable:
        parts.append(published.rule(study.final))
    return Group(*parts)


def rerun_table(
    found: Sequence[Standing], trials: Mapping[int, FrozenTrial], study: Study
) -> RenderableType:
    """Return a table of the standings; `trials` are by number."""
    figures = f"{study.final.words}, mean ± sd (range)"
    searched = f"search {study.objective.quantity}"
    made = FittedTable(
        title="The best, with fresh seeds",
        rows=[
            {
                "trial": label(trials[one.trial]),
                searched: number(trials[one.trial].values[0]),
                "seeds": str(one.honest.n),
                figures: str(one.honest),
                "behind the best": (
                    number(one.behind, beside=one.honest.mean) if abs(one.behind) > 0 else ""
                ),
                "verdict": one.verdict,
            }
            for one in found
        ],
        texts=["verdict"],
        foldable=[figures, "verdict"],
        droppable=["behind the best", searched, "verdict", "seeds"],
        box=box.MARKDOWN,
    )
    lines = [
        f"trial {label(trials[one.trial])}: {params_text(trials[one.trial].params)}"
        for one in found
    ]
    return Group(made, *lines, *([paired_test.rule(study.final)] if len(found) > 1 else []))


def _epochs(runs: Repeats, study: Study, variant: str) -> FittedTable:
    n = len(runs[variant])
    title = f"{variant}, {n} seed{'s' if n > 1 else ''}, {setting(study)}"
    if study.incomparable:
        title += "; not comparable with the published metrics"
    rows = []
    for metric in _compared(runs, study, variant):
        for epoch, ours in spreads(runs, variant, metric).items():
            theirs = study.published_for(variant).get(epoch, {}).get(metric)
            row = {
                "metric": words(metric),
                "epoch": str(epoch),
                "published": number(theirs),
                "our mean": number(ours.mean),
                "sd": number(ours.sd if ours.n > 1 else None, beside=ours.mean),
                "lowest": number(ours.lowest, beside=ours.mean),
                "highest": number(ours.highest, beside=ours.mean),
            }
            if not study.published_figures:
                del row["published"]
            rows.append(row)
    return FittedTable(
        title=title,
        rows=rows,
        droppable=["highest", "lowest", "sd", "published"],
        box=box.MARKDOWN,
    )


def _compared(runs: Repeats, study: Study, variant: str) -> Iterable[str]:
    """Return the metrics that are published, or else those measured on the training data and on
    the split of the final metric."""
    published = [name for metrics in study.published_figures.values() for name in metrics]
    measured = [name for run in runs[variant].values() for epoch in run for name in epoch.metrics]
    splits = "train", split(study.final.metric)[0]
    return dict.fromkeys(published or [name for name in measured if split(name)[0] in splits])


def _finals(runs: Repeats, study: Study, variants: Sequence[str]) -> FittedTable:
    final = study.final
    last, best = f"{final.words}, mean ± sd (range)", best_of("best mean", study.epochs)
    rows = []
    for name in variants:
        found = spreads(runs, name, final.metric)
        means = [spread.mean for spread in found.values()]
        rows.append(
            {
                "variant": name,
                "seeds": str(len(runs[name])),
                last: str(found[study.epochs]) if study.epochs in found else "diverged",
                best: number(max(means, key=final.score, default=None)),
            }
        )
    return FittedTable(
        title="The variants, over their seeds",
        rows=rows,
        foldable=[last],
        droppable=[best, "seeds"],
        box=box.MARKDOWN,
    )


def _verdicts(verdicts: list[Verdict], study: Study) -> FittedTable:
    theirs = best_of("published best", published_epochs(study))
    ours, within = best_of("our best", study.epochs), "epochs within our range"
    return FittedTable(
        title="Published runs and ours",
        rows=[
            {
                "variant": one.variant,
                "verdict": one.text,
                "seeds": str(one.n),
                theirs: number(one.published_best),
                ours: str(one.best),
                within: "" if one.incomparable else f"{one.within} of {one.compared}",
            }
            for one in verdicts
        ],
        texts=["verdict"],
        foldable=["verdict", ours],
        droppable=[within, theirs, ours, "seeds"],
        box=box.MARKDOWN,
    )
