"""Studies: what is trained, what is tried, and how it is judged.

A study is a frozen value: choices, a trainer, a metric, a budget, fixed variants, a sampler and a
pruner. `search.study.study_file` loads one. Its definition is stored in the database, so that a
worker with other settings cannot join it.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, get_args

from optuna.distributions import distribution_to_json
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from typing_extensions import TypeVar

from search.errors import UserError
from search.study import metrics
from search.study.budget import Budget
from search.study.callbacks import Callback, check_callback
from search.study.confirmation import Confirmation
from search.study.definition import RANGE, Definition, described
from search.study.metrics import Direction, Epoch, Metrics, Objective
from search.study.pruners import Promotion, check_pruner
from search.study.samplers import TPE, SamplerFactory, check_sampler
from search.study.seeds import derive_seed
from search.study.space import Ranges, Space
from search.study.training import FunctionTrainer, Run, Trainer, Training
from search.study.trial_attributes import SEED

C = TypeVar("C", default=Any)

PublishedFigures = Mapping[tuple[str, int], Metrics]

NAME_BYTES = 100
TRIALS = 60
"""The budget of a study that names none, in trials."""
COSTS = frozenset({"loss", "error", "perplexity", "ppl", "mse", "rmse", "mae"})
"""Words in the names of metrics that nobody maximizes."""
MOST_EPOCHS = 2**31 - 1
"""The maximum of PostgreSQL's INTEGER type."""


@dataclass(frozen=True, kw_only=True)
class _Published:
    dataset: str | None
    """None for the study's dataset."""
    figures: PublishedFigures


@dataclass(frozen=True, kw_only=True)
class Study(Generic[C]):
    """A search over the choices of a training.

    Raises:
        UserError: a number is out of bounds, or a field of the choices, a range or a variant is
            invalid.
    """

    name: str
    """Name in the database. It also names a folder: at most 100 bytes, without /."""
    choices: type[C]
    """A frozen dataclass, whose annotations are the ranges; see `search.study.space`."""
    train: Trainer[C] | Callable[[Run[C]], Training]
    """A trainer, such as `search.vision.ImageClassification`, or a function that returns a training
    for a run; see `search.study.training`."""
    metric: str
    """The metric that prunes and ranks trials, one of those that the training yields."""
    direction: Direction = "maximize"
    final_metric: str | None = None
    """The metric of the last epoch that re-runs compare, in the same direction; None for
    `metric`."""
    diverged_as: float | None = None
    """The final metric of a re-run that diverges; None for the worst of all re-runs."""
    variants: Mapping[str, C] = field(default_factory=dict)
    """The fixed trials by name, in the order in which they run; never pruned."""
    optional_variants: Mapping[str, C] = field(default_factory=dict)
    """Further ones that a search runs only if they are enqueued by name."""
    ranges: Ranges = field(default_factory=dict)
    """Ranges that replace those of the choices' annotations, by the parameter's name."""
    trials: int | None = None
    """The budget: number of finished trials, including the variants. None for `TRIALS`, or for no
    limit if there is an `epochs_budget`."""
    epochs_budget: int | None = None
    """The budget: number of epochs of all trials together. With `trials`, the search ends as soon
    as one of the two is spent."""
    target: float | None = None
    """A value of the metric that ends the search once a completed trial has reached it."""
    patience: int | None = None
    """The number of trials without a better one that end the search; pruned ones count."""
    epochs: int = 10
    """Number of epochs of a trial that is not pruned."""
    confirm: Confirmation | None = None
    """Re-runs of the best trials at the end of the search, within a budget in epochs; None for
    none."""
    audit: float = 0.0
    """The share of the pruned trials that are run to their last epoch after the search, outside the
    budget, to tell how often pruning was wrong. They are drawn from the study's seed."""
    seed: int = 0
    """All random draws of a trial depend only on this seed and the trial's number."""
    sampler: SamplerFactory = field(default_factory=TPE)
    pruner: BasePruner = field(default_factory=Promotion)
    published: Path | None = None
    """A CSV file of published metrics of the variants, trained on all of the data; None for none.
    Its columns are variant, epoch, the metrics and, optionally, `dataset`: without it, the metrics
    are for the study's dataset."""
    epoch_text: Callable[[Epoch], str] = str
    """Returns the line that is printed for an epoch."""
    callbacks: Sequence[Callback] = ()
    """Objects that a worker calls after each epoch and each trial; see `search.study.callbacks`."""

    def __post_init__(self) -> None:
        check_name(self.name)
        _ = self.space  # made now, so that an invalid field is an error immediately
        if twice := self.variants.keys() & self.optional_variants.keys():
            raise UserError(f"variant {min(twice)}: it is an optional variant too")
        for name, choices in self.every_variant.items():
            _check_variant_name(name)
            try:
                if not isinstance(choices, self.choices):
                    raise UserError(f"{choices!r} is no {self.choices.__name__}")
                self.space.check(self.space.params(choices), complete=True)
            except UserError as error:
                raise UserError(f"variant {name}: {error}") from None
        check_whole("epochs", self.epochs, lowest=1)
        for name in ("trials", "epochs_budget", "patience"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), lowest=1)
        if self.target is not None and not is_finite(self.target):
            raise UserError(f"target must be a finite number, not {self.target!r}")
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"epochs must be at most {MOST_EPOCHS}, not {self.epochs}")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be a whole number from 0 to 2**63 - 1, not {self.seed!r}")
        self._check_objective()
        check_sampler(self.sampler, self.space)
        check_pruner(self.pruner)
        if not isinstance(self.confirm, Confirmation | None):
            raise UserError(f"confirm must be a Confirmation or None, not {self.confirm!r}")
        if not isinstance(self.audit, int | float) or not 0 <= self.audit <= 1:
            raise UserError(f"audit must be a share from 0 to 1, not {self.audit!r}")
        if not isinstance(self.callbacks, Sequence):
            raise UserError(f"callbacks must be a list of callbacks, not {self.callbacks!r}")
        for callback in self.callbacks:
            check_callback(callback)
        _ = self.published_figures  # read now, so that an invalid file is an error immediately

    def _check_objective(self) -> None:
        if not callable(self.train) and not isinstance(self.train, Trainer):
            raise UserError(
                f"train must be a Trainer or a function that returns a training, not {self.train!r}"
            )
        if self.direction not in get_args(Direction):
            raise UserError(f"direction must be maximize or minimize, not {self.direction!r}")
        costs = [name for name in (self.metric, self.final_metric) if _is_cost(name)]
        if self.direction == "maximize" and costs:
            raise UserError(
                f'metric {costs[0]} is better if it is lower: give direction="minimize"'
            )
        known = self.trainer.metrics
        for name in ("metric", "final_metric"):
            metric = getattr(self, name)
            if metric is None and name == "final_metric":
                continue
            if not isinstance(metric, str) or not metric:
                raise UserError(f"{name} must be the name of a metric, not {metric!r}")
            if known is not None and metric not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {metric!r}")
        if self.first_loss is not None and known is not None and self.first_loss not in known:
            raise UserError(
                f"pruner: first_loss must be one of {', '.join(known)}, not {self.first_loss!r}"
            )
        is_held_out = [
            metrics.split(m)[0] == "validation" for m in (self.metric, self.final.metric)
        ]
        if self.trainer.metrics is not None and is_held_out == [False, True]:
            raise UserError(
                f"final_metric {self.final_metric}: nothing is held out for the metric "
                f"{self.metric}"
            )

    @property
    def every_variant(self) -> Mapping[str, C]:
        return {**self.variants, **self.optional_variants}

    @cached_property
    def space(self) -> Space[C]:
        return Space(self.choices, self.ranges)

    @cached_property
    def trainer(self) -> Trainer[C]:
        return self.train if isinstance(self.train, Trainer) else FunctionTrainer(train=self.train)

    @property
    def first_loss(self) -> str | None:
        """The metric that `Promotion` compares on its first rung if it is not the study's."""
        return self.pruner.first_loss if isinstance(self.pruner, Promotion) else None

    @property
    def budget(self) -> Budget:
        trials = self.trials
        if trials is None and self.epochs_budget is None:
            trials = TRIALS
        return Budget(
            trials=trials,
            epochs=self.epochs_budget,
            target=self.target,
            patience=self.patience,
        )

    def for_search(self, budget: Budget) -> Budget:
        """Return the part of `budget` that the confirmation leaves for the search.

        Raises:
            UserError: the confirmation would use it up.
        """
        if self.confirm is None:
            return budget
        return self.confirm.left_for_search(budget, self.epochs)

    def with_variants(self, named: Mapping[str, C]) -> Self:
        """Return the study with the choices that are `named` among the variants that it runs."""
        rest = {name: one for name, one in self.optional_variants.items() if name not in named}
        return replace(self, variants={**self.variants, **named}, optional_variants=rest)

    def with_budget(self, budget: Budget) -> Self:
        return self.changed(budget.settings)

    @property
    def objective(self) -> Objective:
        return Objective(metric=self.metric, direction=self.direction)

    @property
    def final(self) -> Objective:
        """What re-runs compare."""
        return Objective(
            metric=self.final_metric or self.metric,
            direction=self.direction,
            diverged_as=self.diverged_as,
        )

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the study with other values of its fields, or of its trainer's.

        Raises:
            UserError: neither has such a field, or a value is invalid.
        """
        own = {one.name for one in fields(self)}
        of_trainer = {one.name for one in fields(self.trainer)}  # type: ignore[arg-type]
        if unknown := [name for name in changes if name not in own | of_trainer]:
            raise UserError(
                f"--{unknown[0]}: the training of the study {self.name} has no such setting"
            )
        found = replace(self, **{name: value for name, value in changes.items() if name in own})
        trained = {name: value for name, value in changes.items() if name not in own}
        if not trained:
            return found
        return replace(found, train=replace(self.trainer, **trained))  # type: ignore[type-var]

    def trial_seed(self, trial: FrozenTrial) -> int:
        """Return the seed of all random draws in the training of `trial`."""
        seed = trial.user_attrs.get(SEED)
        return derive_seed(self.seed, "trial", trial.number) if seed is None else int(seed)

    def repeat_seed(self, repeat: int) -> int:
        """Return the seed of re-run `repeat`, equal for all trials so that re-runs are paired."""
        return derive_seed(self.seed, "repeat", repeat)

    def definition(self, data_digest: str | None, precision: str | None = None) -> Definition:
        """Return the settings on which all workers must agree, as JSON values.

        The budget and the variants are left out, since both can be extended, and the callbacks,
        since they affect no metric. `data_digest` identifies the data; `precision` is the numeric
        precision, None if unknown.
        """
        ranges = {
            f"{RANGE}{name}": distribution_to_json(distribution)
            for name, distribution in self.space.ranges.items()
        }
        return {
            **self.trainer.settings(),
            "data": data_digest,
            "precision": precision,
            "epochs": self.epochs,
            "metric": self.metric,
            "direction": self.direction,
            "final_metric": self.final.metric,
            "diverged_as": self.diverged_as,
            "seed": self.seed,
            "sampler": described(self.sampler),
            "pruner": described(self.pruner),
            **ranges,
        }

    def defined(self, definition: Definition | None) -> Self:
        """Return this study with the epochs, seed, metric, precision and trainer's numbers of a
        definition.

        Raises:
            UserError: the definition has another dataset.
        """
        if definition is None:
            return self
        settings = self.trainer.settings()
        selected = self._selected(str(definition.get("metric")))
        own = {**settings, "metric": selected.metric, "direction": self.direction}
        for name, value in own.items():
            stored = definition.get(name)
            if stored != value and (isinstance(value, str) or isinstance(stored, str)):
                raise UserError(
                    f"--name {self.name}: the study of this name differs: {name} is "
                    f"{stored!r} in the database and {value!r} here. Give the "
                    "--study with which it was created"
                )
        numbers = [name for name in settings if not isinstance(settings[name], str)]
        found = selected.changed({name: definition[name] for name in ("epochs", "seed", *numbers)})
        precision = definition.get("precision")
        return found.in_precision(None if precision is None else str(precision))

    def in_precision(self, precision: str | None) -> Self:
        """Return the study trained in this numeric precision; None if it is unknown."""
        if precision is None:
            return self
        return replace(self, train=self.trainer.in_precision(precision))

    @property
    def precision_setting(self) -> dict[str, str]:
        """The precision as a change for `changed`; empty unless the trainer states one."""
        precision = getattr(self.trainer, "precision", None)
        return {} if precision is None else {"precision": precision}

    def select(self, split: str) -> Self:
        """Return the study that prunes and ranks trials by its metric on another split.

        The final metric stays what it was.

        Raises:
            UserError: the metric is not measured on a split, or not on this one.
        """
        if not metrics.split(self.metric)[0]:
            raise UserError(f"--select {split}: {self.metric} does not name the split it is of")
        return self._selected(f"{split}_{metrics.split(self.metric)[1]}")

    def _selected(self, metric: str) -> Self:
        """Return the study with `metric` if that is the same quantity on another split."""
        if metric == self.metric or metrics.split(metric)[1] != metrics.split(self.metric)[1]:
            return self
        return replace(self, metric=metric, final_metric=self.final.metric)

    @property
    def dataset(self) -> str | None:
        """The trainer's dataset; None if it has no field of this name."""
        found: str | None = getattr(self.trainer, "dataset", None)
        return found

    @property
    def trained_on(self) -> str:
        """The data that trials are trained on, as text; empty if the trainer does not tell."""
        return self.trainer.data_text(self.metric)

    @property
    def setting(self) -> str:
        """The data and the epochs, as text."""
        parts = [
            self.dataset,
            self.trained_on,
            f"{self.epochs} epoch{'s' if self.epochs > 1 else ''} per trial",
        ]
        return ", ".join(filter(None, parts))

    @property
    def incomparable(self) -> str | None:
        """Why the published metrics cannot be compared with those of a trial, as text.

        None if they can be compared, epoch by epoch, or if none are published.
        """
        if not self.published_figures:
            return None
        reasons = self.trainer.incomparable(self._published.dataset, self.metric)
        return f"trained on {'; on '.join(reasons)}" if reasons else None

    @property
    def caution(self) -> str:
        """A note on how to interpret the best trial's metric."""
        split = metrics.split(self.metric)[0]
        if self.final.metric != self.metric and split.startswith("val"):
            return (
                f"Trials were chosen on held-out {self.trainer.held_out}; {self.final.words} was "
                "measured once."
            )
        where = " on the test set" if split == "test" else ""
        return (
            f"The best of many trials{where} is optimistic: re-run the winner with fresh seeds "
            "before you quote it."
        )

    def published_for(self, variant: str | None) -> Mapping[int, Metrics]:
        """Return a variant's published metrics by epoch; empty for None."""
        figures = self.published_figures.items()
        return {epoch: found for (name, epoch), found in figures if name == variant}

    @property
    def published_figures(self) -> PublishedFigures:
        """Published metrics by variant and epoch; empty if none are published."""
        return self._published.figures

    @cached_property
    def _published(self) -> "_Published":
        if self.published is None:
            return _Published(dataset=None, figures={})
        try:
            with self.published.open(newline="") as lines:
                rows = list(csv.DictReader(lines))
            names = [name for name in rows[0] if name not in ("variant", "epoch", "dataset")]
            figures = {
                (row["variant"], int(row["epoch"])): {name: float(row[name]) for name in names}
                for row in rows
            }
            (dataset,) = {row.get("dataset") or None for row in rows}
            return _Published(dataset=dataset, figures=figures)
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"published: {self.published} is not a CSV file with the columns variant, epoch "
                f"and metrics ({type(error).__name__}: {error})"
            ) from error


def _is_cost(metric: object) -> bool:
    """Return whether the name of a metric says that lower is better."""
    return isinstance(metric, str) and not COSTS.isdisjoint(metric.lower().split("_"))


def check_whole(name: str, value: object, *, lowest: int) -> None:
    """Check a setting that is a whole number.

    Raises:
        UserError: it is not, or it is below `lowest`.
    """
    if not is_whole(value) or value < lowest:  # type: ignore[operator]
        raise UserError(f"{name} must be a whole number of at least {lowest}, not {value!r}")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_name(name: str) -> None:
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or set(name) <= {".", " "}
        or "/" in name
        or "\\" in name
    ):
        raise UserError(f"a study's name must be a valid folder name without /, not {name!r}")
    if (size := len(name.encode())) > NAME_BYTES:
        raise UserError(f"a study's name must have at most {NAME_BYTES} bytes, not {size}")


def _check_variant_name(name: object) -> None:
    """Check that a variant's name is one line, and distinct from other values of `--trial`.

    Raises:
        UserError: it is not.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"a variant's name must be one line of text, not {name!r}")
    if name == "best" or name.isdecimal():
        raise UserError(
            f"a variant's name must not be `best` or a number, which denote trials, not {name!r}"
        )
