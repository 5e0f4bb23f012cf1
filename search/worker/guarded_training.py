"""Runs any training with what the service guarantees, so that no training has to.

The global random generators are seeded before each epoch, every metric is a finite number, the
time is measured, the state is written in a form that is safe to read, and errors are told apart.
"""

import inspect
import math
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.errors import UserError
from search.study.metrics import Epoch
from search.study.seeds import derive_seed
from search.study.training import About, Exportable, Run, Session, Training
from search.worker.device import is_out_of_memory
from search.worker.state import UnreadableState, dump, load

ENGINE = Path(__file__).parents[1]
_END = object()
"""What the end of `fit` is told by, since it may yield None by mistake."""


class Diverged(ArithmeticError):
    """A metric is infinite or not a number."""

    def __init__(self, name: str, value: float, epoch: int) -> None:
        super().__init__(f"{name} is {value} in epoch {epoch}")
        self.epoch = epoch


class TrainingError(Exception):
    """The training raised an error; the message names it and its line."""

    def __init__(self, error: Exception) -> None:
        self.traceback, where = _trimmed(error)
        text = " ".join([f"{type(error).__name__}:", *str(error).split()])
        if is_out_of_memory(error):
            super().__init__((str(error).splitlines() or ["out of memory"])[0])
        else:
            super().__init__(f"{text.removesuffix(':')}{where}")


class GuardedTraining:
    """A training of a run, as the worker uses it."""

    def __init__(
        self, session: Session[Any], run: Run[Any], source: Callable[..., Any] | None = None
    ) -> None:
        """`source` is the user's function whose line errors name.

        Raises:
            TrainingError: it cannot be started.
            UserError: what was started is not a training.
        """
        self._where = "" if source is None else _line_of(source)
        self._run = run
        _seed(run.seed, 0)
        with _blaming_training():
            self._training: Training = session.start(run)
        if missing := [
            name
            for name in ("fit", "state_dict", "load_state_dict")
            if not callable(getattr(self._training, name, None))
        ]:
            raise self._error(
                f"train returned {self._training!r}, which has no {missing[0]}(); a training has "
                "fit, state_dict and load_state_dict"
            )

    def epochs(self, after: int = 0) -> Iterator[Epoch]:
        """Train from epoch `after` + 1 to the last, and yield each epoch.

        Raises:
            Diverged: a metric is not finite.
            TrainingError: the training raised an error.
            UserError: `fit` yields something else than metrics, or too few or too many epochs.
        """
        if after >= self._run.epochs:
            return
        with _blaming_training():
            fitted = iter(self._training.fit(after))
        for number in range(after + 1, self._run.epochs + 1):
            self._run.after_batch(0)  # a training that never calls it stops here
            _seed(self._run.seed, number)
            start = time.perf_counter()
            with _blaming_training():
                metrics = next(fitted, _END)
            if metrics is _END:
                raise self._error(
                    f"fit yielded {number - 1} of {self._run.epochs} epochs; it must yield up to "
                    "epoch run.epochs"
                )
            seconds = time.perf_counter() - start
            yield Epoch(number=number, metrics=self._checked(metrics, number), seconds=seconds)
        with _blaming_training():
            if next(fitted, _END) is not _END:
                raise self._error(
                    f"fit yielded more than {self._run.epochs} epochs; it must end after epoch "
                    "run.epochs"
                )

    def state(self) -> bytes:
        """Return the state after the last epoch.

        Raises:
            TrainingError: the training raised an error.
            UserError: the state cannot be written.
        """
        with _blaming_training():
            found = self._training.state_dict()
        try:
            content = dump(found)
            load(content, "cpu")  # a state can hold other objects in a later epoch
        except UnreadableState as error:
            raise self._no_state(error) from error
        return content

    def load(self, content: bytes) -> None:
        """Load what `state` returned.

        Raises:
            TrainingError: the training raised an error.
            UserError: the content holds other objects than a state may.
        """
        try:
            found = load(content, self._run.device)
        except UnreadableState as error:
            raise self._no_state(error) from error
        with _blaming_training():
            self._training.load_state_dict(found)

    def export(self, about: About) -> bytes:
        """Return the file that is kept of a good trial: by default the state."""
        if not isinstance(self._training, Exportable):
            return self.state()
        with _blaming_training():
            return self._training.export(about)

    def _checked(self, metrics: object, number: int) -> Mapping[str, float]:
        if not isinstance(metrics, Mapping):
            raise self._error(
                f"fit must yield a mapping of metrics, such as {{{self._run.metric!r}: 0.5}}, not "
                f"{metrics!r}"
            )
        found: dict[str, float] = {}
        for name, value in metrics.items():
            try:
                if isinstance(value, str | bytes | bool):
                    raise TypeError
                found[str(name)] = float(value)
            except (TypeError, ValueError):
                raise self._error(
                    f"fit yielded {name}={value!r} in epoch {number}; a metric is a number"
                ) from None
            except OverflowError:
                found[str(name)] = math.inf
        if self._run.metric not in found:
            raise self._error(
                f"fit yielded {', '.join(found) or 'no metrics'} in epoch {number}, but not "
                f"{self._run.metric}, the study's metric; yield it, or name another metric"
            )
        for name, value in found.items():
            if not math.isfinite(value):
                raise Diverged(name, value, number)
        return found

    def _error(self, text: str) -> UserError:
        return UserError(f"{self._where}{text}")

    def _no_state(self, error: UnreadableState) -> UserError:
        return self._error(
            f"state_dict must hold only tensors, numbers, text, bytes, and dicts, "
            f"lists and tuples of them ({error}); turn other objects into bytes, as by pickle.dumps"
        )


def _line_of(source: Callable[..., Any]) -> str:
    """Return the file and line of a function or class, as the beginning of a message."""
    try:
        _, line = inspect.getsourcelines(source)
        return f"{Path(inspect.getfile(source)).name}, line {line}: "
    except (OSError, TypeError):  # such as a class of a notebook
        return ""


def _seed(seed: int, epoch: int) -> None:
    """Seed the global generators of the libraries that are loaded."""
    for name in ("random", "numpy", "torch"):
        own = derive_seed(seed, name, epoch)
        if name == "random":
            random.seed(own)
        elif name == "numpy" and (numpy := sys.modules.get("numpy")):
            numpy.random.seed(own)
        elif name == "torch" and (torch := sys.modules.get("torch")):
            torch.manual_seed(own)


@contextmanager
def _blaming_training() -> Iterator[None]:
    """Turn errors of the block into `TrainingError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise TrainingError(error) from error


def _trimmed(error: Exception) -> tuple[str, str]:
    """Return the traceback without the service's frames, and the line of the last frame outside
    installed packages."""
    told = traceback.TracebackException.from_exception(error)
    theirs = [frame for frame in told.stack if not Path(frame.filename).is_relative_to(ENGINE)]
    if theirs:
        told.stack = traceback.StackSummary.from_list(theirs)
    own = [frame for frame in theirs if not _is_installed(frame.filename)] or theirs
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return "".join(told.format()), where


def _is_installed(filename: str) -> bool:
    return any(Path(filename).is_relative_to(folder) for folder in _INSTALLED)


_INSTALLED: Sequence[Path] = [Path(folder) for folder in {sys.prefix, sys.base_prefix}]
