"""Tables that compare runs over several seeds, with published figures and with each other."""

from collections.abc import Mapping, Sequence

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
    fraction,
    published_epochs,
    setting,
)
from search.study.choices import params_text
from search.study.study import PUBLISHED, Study
from search.study.trial_attributes import label


def comparison(runs: Repeats, study: Study) -> RenderableType:
    """Return a table of all epochs for each variant, and a table of the verdicts.

    `study` is the study that the runs were trained as.
    """
    variants = [name for name in study.variants if name in runs]
    parts: list[RenderableType] = [_epochs(runs, study, name) for name in variants]
    verdicts = [found for name in variants if (found := verdict(runs, study, name))]
    if verdicts:
        parts += [_verdicts(verdicts, study), caption(study)]
    if verdicts and not study.incomparable:
        parts.append(published.RULE)
    return Group(*parts)


def rerun_table(found: Sequence[Standing], trials: Mapping[int, FrozenTrial]) -> RenderableType:
    """Return a table of the standings; `trials` are by number."""
    figures = "test accuracy, mean ± sd (range)"
    made = FittedTable(
        title="The best, with fresh seeds",
        rows=[
            {
                "trial": label(trials[one.trial]),
                "search accuracy": f"{trials[one.trial].values[0]:.4f}",
                "seeds": str(one.honest.n),
                figures: str(one.honest),
                "behind the best": f"{one.behind:.4f}" if abs(one.behind) > 0 else "",
                "verdict": one.verdict,
            }
            for one in found
        ],
        texts=["verdict"],
        foldable=[figures, "verdict"],
        droppable=["behind the best", "search accuracy", "verdict", "seeds"],
        box=box.MARKDOWN,
    )
    lines = [
        f"trial {label(trials[one.trial])}: {params_text(trials[one.trial].params)}"
        for one in found
    ]
    return Group(made, *lines, *([paired_test.RULE] if len(found) > 1 else []))


def _epochs(runs: Repeats, study: Study, variant: str) -> FittedTable:
    n = len(runs[variant])
    title = f"{variant}, {n} seed{'s' if n > 1 else ''}, {setting(study)}"
    if study.incomparable:
        title += "; not comparable with the published metrics"
    rows = []
    for metric in PUBLISHED:
        for number, ours in spreads(runs, variant, metric).items():
            theirs = study.published_figures.get((variant, number), {}).get(metric)
            rows.append(
                {
                    "metric": metric.replace("_", " "),
                    "epoch": str(number),
                    "published": fraction(theirs),
                    "our mean": fraction(ours.mean),
                    "sd": fraction(ours.sd if ours.n > 1 else None),
                    "lowest": fraction(ours.lowest),
                    "highest": fraction(ours.highest),
                }
            )
    return FittedTable(
        title=title,
        rows=rows,
        droppable=["highest", "lowest", "sd", "published"],
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
                theirs: fraction(one.published_best),
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
