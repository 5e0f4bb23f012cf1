"""A callback that remembers its calls, and studies to call it for."""

from collections.abc import Iterator
from itertools import islice

from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch, Metrics
from tests.support.curves import Curve


class Recorder(Callback):
    def __init__(self) -> None:
        self.epochs: list[tuple[TrialInfo, Epoch]] = []
        self.ends: list[tuple[TrialInfo, TrialResult]] = []

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        self.epochs.append((trial, epoch))

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        self.ends.append((trial, result))

    @property
    def order(self) -> list[tuple[int, int]]:
        """The epochs in the order of the calls, as (trial, epoch)."""
        return [(trial.number, epoch.number) for trial, epoch in self.epochs]

    @property
    def end_order(self) -> list[tuple[int, int, str]]:
        """The ends in the order of the calls, as (trial, last epoch, state); epoch 0 for none."""
        return [
            (trial.number, result.last.number if result.last else 0, result.state)
            for trial, result in self.ends
        ]


class Fails(Curve):
    """Fails after two epochs."""

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        yield from islice(super().fit(after), 2)
        raise ArithmeticError("too hot")


LINES = """
import json
from dataclasses import replace
from pathlib import Path

from search.study import Callback
from tests.support.curves import study

CALLS = Path(__file__).with_name("calls")


class Lines(Callback):
    def after_epoch(self, trial, epoch):
        self.write(trial, epoch.number)

    def after_trial(self, trial, result):
        self.write(trial, result.state)

    def write(self, trial, what):
        with CALLS.open("a") as file:  # a line is written at once, whoever else writes
            file.write(json.dumps([trial.study, trial.name, trial.key, what]) + "\\n")


study = replace(study, callbacks=[Lines()])
"""
"""A study file whose workers write a line in the file `calls` for each call: the study, the trial's
name and key, and the epoch or the state."""
