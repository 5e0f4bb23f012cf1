"""Search from Python, in a script or a notebook.

    from search.api import run
    found = run(study, trials=50)
    found.choices, found.rows

The database, the guarantees and the output are those of `python -m search.run`, and the same call
resumes a search. An interrupt, as by Ctrl-C or a notebook's stop button, stops it cleanly.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, cast

from optuna.trial import FrozenTrial
from typing_extensions import TypeVar

from search import run as command
from search.errors import UserError
from search.study.space import listed, written
from search.study.study import Study
from search.study.study_file import load

__all__ = ["Result", "run"]

C = TypeVar("C", default=Any)


@dataclass(frozen=True, kw_only=True)
class Result(Generic[C]):
    """A study after a search."""

    study: Study[C]
    ended: command.Ended

    def __repr__(self) -> str:
        best = self.ended.answer.best
        trial = "" if best is None else f", best trial {best.number}: {written(best.params)}"
        return f"<Result of {self.study.name}: {len(self.ended.overview.finished)} finished{trial}>"

    @property
    def is_done(self) -> bool:
        """Whether the budget is spent; otherwise the search was stopped."""
        return self.ended.is_done

    @property
    def best(self) -> FrozenTrial:
        """The best trial: by the mean of its re-runs, once there are any.

        Raises:
            UserError: no trial is complete yet.
        """
        if self.ended.answer.best is None:
            raise UserError("no trial of the study is complete yet")
        return self.ended.answer.best

    @property
    def choices(self) -> C:
        """The best trial's choices."""
        return self.study.space.of(self.best.params)

    @property
    def choices_json(self) -> str:
        """The best trial's parameters as JSON."""
        return json.dumps(self.best.params)

    @property
    def choices_line(self) -> str:
        """The best trial's parameters as a value of `--enqueue`."""
        return written(self.best.params)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial, for `pandas.DataFrame`: its number, state and value, its
        parameters, the metrics of its last epoch, the number of epochs and their seconds."""
        overview = self.ended.overview
        return [
            {
                "number": trial.number,
                "state": trial.state.name,
                "value": overview.value(trial),
                **trial.params,
                **(epochs[-1].metrics if epochs else {}),
                "epochs": len(epochs),
                "seconds": sum(epoch.seconds for epoch in epochs),
            }
            for trial in overview.trials
            for epochs in (overview.of(trial),)
        ]


def run(study: Study[C] | str | Path, *, workers: int | None = 1, **options: Any) -> Result[C]:
    """Run or resume a study.

    Args:
        study: a study, or the path of its file.
        workers: number of workers; None for one on each core or GPU. Several are processes of their
            own, which load the study from its file: give its path.
        options: the options of `python -m search.run`, such as `trials`, `storage`, `data`,
            `timeout`, with `_` for `-`.

    Raises:
        UserError: an option is invalid, or several workers have no file to load.
        KeepsFailing, KeepsDying, DatabaseGone, StudyGone: the search failed.
    """
    if workers != 1 and isinstance(study, Study):
        raise UserError(
            f"workers={workers}: other processes cannot load the study {study.name} from this one; "
            "write it to a file that defines `study`, and give the file's path instead"
        )
    named = "" if isinstance(study, Study) else str(study)
    parser = command.parser()
    of_command = parser.parse_args(["--study", named])
    known = {action.dest: action for action in parser.actions}
    for name, value in {"workers": "auto" if workers is None else workers, **options}.items():
        if name not in known:
            raise UserError(f"{name}: there is no such option; see python -m search.run --help")
        if value is not None:
            setattr(of_command, name, _converted(known[name], value))
    loaded: Study[C] = study if isinstance(study, Study) else load(named)
    ended = command.search(of_command, loaded)
    return Result(study=ended.study, ended=ended)


def _converted(option: argparse.Action, value: object) -> Any:
    """Return the value of an option as the command parses it.

    Raises:
        UserError: it is not one that the option can have.
    """
    if option.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{option.dest}: True or False is needed, not {value!r}")
        return value
    if isinstance(option.default, list):
        return [value] if isinstance(value, str) else list(cast(Iterable[str], value))
    convert = cast(Callable[[str], object], option.type or str)
    try:
        converted = convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{option.dest}: {error}") from None
    if option.choices and converted not in option.choices:
        raise UserError(f"{option.dest}: {listed(list(option.choices))} is needed, not {value!r}")
    return converted
