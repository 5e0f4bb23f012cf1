"""Calls a study's callbacks: what they raise is logged, and the search goes on."""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, TrialState

from search.errors import UserError, printable
from search.study.callbacks import Callback, State, TrialInfo, TrialResult
from search.study.metrics import Epoch
from search.study.study import Study
from search.study.trial_attributes import fixed_name
from search.worker.result import Outcome

STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

log = logging.getLogger(__name__)


@contextmanager
def ready(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Call `setup` of those that have it before the block, and `teardown` after it.

    Raises:
        UserError: `setup` raised an error.
    """
    try:
        for callback in callbacks:
            _set_up(callback)
        yield
    finally:
        for callback in callbacks:
            with _logging_errors(f"{type(callback).__name__}.teardown"):
                if teardown := getattr(callback, "teardown", None):
                    teardown()


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """The callbacks of one worker."""

    study: Study
    study_key: str

    def after_epoch(self, trial: FrozenTrial, epoch: Epoch) -> None:
        self._call("after_epoch", trial, replace(epoch, metrics=dict(epoch.metrics)))

    def after_trial(self, trial: FrozenTrial, outcome: Outcome, last: Epoch | None) -> None:
        """`last` is the trial's last epoch; None if it has none."""
        result = TrialResult(
            state=STATES[outcome.state], value=outcome.value, reason=outcome.reason, last=last
        )
        self._call("after_trial", trial, result)

    def _call(self, method: str, trial: FrozenTrial, event: Epoch | TrialResult) -> None:
        info = self._info(trial)
        for callback in self.study.callbacks:
            with _logging_errors(f"trial {trial.number}: {type(callback).__name__}.{method}"):
                if call := getattr(callback, method, None):
                    call(info, event)

    def _info(self, trial: FrozenTrial) -> TrialInfo:
        return TrialInfo(
            study=self.study.name,
            study_key=self.study_key,
            number=trial.number,
            name=fixed_name(trial),
            params=dict(trial.params),
            seed=self.study.trial_seed(trial),
            metric=self.study.metric,
            direction=self.study.direction,
        )


def _set_up(callback: Callback) -> None:
    try:
        if setup := getattr(callback, "setup", None):
            setup()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"callbacks: {type(callback).__name__}: {_line(error)}") from error


@contextmanager
def _logging_errors(where: str) -> Iterator[None]:
    """Log what the block raises, in a line, and with its traceback for debugging."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", where, _line(error))
        log.debug("%s: %s", where, _masked("".join(traceback.format_exception(error))))


def _line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return printable(_masked(text))


def _masked(text: str) -> str:
    """Return `text` with the user and password of URLs masked: a tracker's error may name one."""
    return re.sub(r"://[^/\s]+@", "://***@", text)
