"""What the service guarantees around any training, and what it refuses."""

import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import torch

from search.errors import UserError
from search.study.training import Run, Training
from search.worker import state
from search.worker.guarded_training import Diverged, GuardedTraining, TrainingError


@dataclass
class Fake:
    """A training whose epochs and state a test gives."""

    run: Run[Any]
    epoch: Callable[[int], Any]
    kept: Any = None

    def fit(self, after: int = 0) -> Iterator[Any]:
        for number in range(after + 1, self.run.epochs + 1):
            yield self.epoch(number)

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self.kept is None else {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = state.get("kept")


def _guarded(
    epoch: Callable[[int], Any], *, kept: Any = None, start: Callable[[Any], Any] | None = None
) -> GuardedTraining:
    run = Run(
        choices=None, seed=7, epochs=3, metric="loss", is_detailed=False, device="cpu", threads=1,
        data=Path(), after_batch=lambda batches: None,
    )  # fmt: skip

    def make(run: Run[Any]) -> Training:
        return Fake(run, epoch, kept)

    session = SimpleNamespace(start=start or make, digest=None, precision=None)
    return GuardedTraining(cast(Any, session), run)


def test_the_global_generators_draw_by_the_trial_and_the_epoch_alone() -> None:
    def epoch(number: int) -> dict[str, float]:
        return {
            "loss": random.random(),
            "numpy": float(np.random.rand()),
            "torch": torch.rand(()).item(),
        }

    whole = list(_guarded(epoch).epochs())
    assert len({metric for one in whole for metric in one.metrics.values()}) == 9
    random.seed(0)
    torch.rand(5)
    resumed = list(_guarded(epoch).epochs(after=1))
    assert [one.metrics for one in resumed] == [one.metrics for one in whole[1:]]
    assert [one.number for one in resumed] == [2, 3]


def test_a_number_beyond_floats_diverges() -> None:
    with pytest.raises(Diverged, match="loss is inf in epoch 1"):
        list(_guarded(lambda number: {"loss": 10**400}).epochs())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_not_finite_diverges_by_its_name(value: float) -> None:
    epochs = _guarded(lambda number: {"loss": 1.0, "auc": value if number == 2 else 0.5}).epochs()
    assert next(epochs).metrics == {"loss": 1.0, "auc": 0.5}
    with pytest.raises(Diverged, match=f"auc is {value} in epoch 2") as raised:
        next(epochs)
    assert raised.value.epoch == 2


@pytest.mark.parametrize(
    ("yielded", "complaint"),
    [
        ({"lss": 1.0}, "fit yielded lss in epoch 1, but not loss, the study's metric"),
        ({}, "fit yielded no metrics in epoch 1, but not loss"),
        ({"loss": "low"}, "fit yielded loss='low' in epoch 1; a metric is a number"),
        ({"loss": "0.5"}, "fit yielded loss='0.5' in epoch 1; a metric is a number"),
        ({"loss": True}, "fit yielded loss=True in epoch 1; a metric is a number"),
        (0.5, "fit must yield a mapping of metrics, such as {'loss': 0.5}, not 0.5"),
        (None, "fit must yield a mapping of metrics, such as {'loss': 0.5}, not None"),
    ],
)
def test_what_is_no_metrics_is_refused(yielded: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        list(_guarded(lambda number: yielded).epochs())


@pytest.mark.parametrize(
    ("n", "complaint"),
    [
        (2, "fit yielded 2 of 3 epochs; it must yield up to"),
        (4, "fit yielded more than 3 epochs; it must end after"),
    ],
)
def test_another_number_of_epochs_is_refused(n: int, complaint: str) -> None:
    class Other(Fake):
        def fit(self, after: int = 0) -> Iterator[Any]:
            yield from ({"loss": 1.0} for _ in range(n))

    guarded = _guarded(lambda number: None, start=lambda run: Other(run, lambda number: None))
    with pytest.raises(UserError, match=complaint):
        list(guarded.epochs())


def test_what_is_no_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"train returned 5, which has no fit\(\)"):
        _guarded(lambda number: None, start=lambda run: 5)


class Odd:
    """An object that a state may not hold."""


@pytest.mark.parametrize(
    "kept",
    [Odd(), {"deep": [Odd()]}, [torch.zeros(2), Odd()], lambda: None],
    ids=["object", "nested", "beside-a-tensor", "function"],
)
def test_a_state_that_cannot_be_read_back_is_refused(kept: object) -> None:
    with pytest.raises(UserError, match="state_dict must hold only tensors, numbers, text"):
        _guarded(lambda number: {"loss": 1.0}, kept=kept).state()


def test_the_object_that_a_state_may_not_hold_is_named() -> None:
    for kept in (Odd(), [torch.zeros(2), Odd()]):
        with pytest.raises(UserError, match=r"\(tests\.worker\.test_guarded_training\.Odd\); turn"):
            _guarded(lambda number: {"loss": 1.0}, kept=kept).state()


def test_a_state_that_cannot_be_read_back_is_refused_in_later_epochs_too() -> None:
    kept: dict[str, object] = {"n": 1}
    guarded = _guarded(lambda number: {"loss": 1.0}, kept=kept)
    guarded.state()
    kept["odd"] = Odd()
    with pytest.raises(UserError, match="state_dict must hold only"):
        guarded.state()


@pytest.mark.parametrize("kept", [{"n": 1}, {"tensor": torch.zeros(9)}], ids=["plain", "tensor"])
def test_a_damaged_state_is_refused(kept: object) -> None:
    whole = _guarded(lambda number: {"loss": 1.0}, kept=kept).state()
    for content in (b"", b"odd", whole[:2], whole[: len(whole) // 2]):
        with pytest.raises(UserError, match="state_dict must hold only"):
            _guarded(lambda number: {"loss": 1.0}).load(content)


def test_a_state_comes_back_whole() -> None:
    kept = {"n": 1, "x": 0.1, "text": "a", "bytes": pickle.dumps({1}), "list": [(1, None), True]}
    for own in (kept, {**kept, "tensor": torch.arange(3)}):
        guarded = _guarded(lambda number: {"loss": 1.0}, kept=own)
        content = guarded.state()
        found = state.load(content, "cpu")["kept"]
        assert str(found) == str(own)
        other = _guarded(lambda number: {"loss": 1.0})
        other.load(content)
        assert other.state() == content


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(state.UnreadableState):
        state.load(pickle.dumps({"evil": Evil()}), "cpu")
    assert not (tmp_path / "ran").exists()


def test_an_error_of_the_training_has_its_line_and_none_of_the_services() -> None:
    def epoch(number: int) -> dict[str, float]:
        raise ValueError("no luck")

    with pytest.raises(TrainingError) as raised:
        list(_guarded(epoch).epochs())
    assert str(raised.value).startswith("ValueError: no luck (test_guarded_training.py, line ")
    assert "no luck" in raised.value.traceback
    assert "guarded_training.py" not in raised.value.traceback.replace("test_guarded", "")


def test_an_error_without_text_is_named_by_its_type() -> None:
    def epoch(number: int) -> dict[str, float]:
        assert number < 1
        return {}

    with pytest.raises(TrainingError, match=r"^AssertionError"):
        list(_guarded(epoch).epochs())
    with pytest.raises(TrainingError, match=r"^KeyError \(test_guarded_training\.py, line \d+\)$"):
        list(_guarded(lambda number: _raise(KeyError())).epochs())


def _raise(error: Exception) -> NoReturn:
    raise error


def test_errors_of_its_state_are_the_trainings() -> None:
    class Broken(Fake):
        def state_dict(self) -> Mapping[str, Any]:
            raise OSError("no state")

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            raise OSError("no room for it")

    def start(run: Run[Any]) -> Training:
        return Broken(run, lambda number: {"loss": 1.0})

    broken = _guarded(lambda number: None, start=start)
    with pytest.raises(TrainingError, match=r"OSError: no state \(test_guarded_training\.py"):
        broken.state()
    with pytest.raises(TrainingError, match=r"OSError: no room for it \(test_guarded_training\.py"):
        broken.load(state.dump({}))


def test_a_state_without_tensors_needs_no_pytorch() -> None:
    code = (
        "import sys\n"
        "from search.worker.state import dump, load\n"
        "assert load(dump({'a': [1, b'x']}), 'cpu') == {'a': [1, b'x']}\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
