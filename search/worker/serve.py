"""Runs a worker in another process or on another machine, from its `WorkerConfig`."""

import logging
import traceback
from collections.abc import Callable

import optuna

from search.database.outage import DatabaseGone, Outage, first_line, is_refusal
from search.errors import UserError
from search.worker.claims import StudyGone
from search.worker.config import WorkerConfig
from search.worker.stop import Stop
from search.worker.worker import WAIT_SECONDS, KeepsFailing, Worker


def serve(config: WorkerConfig, stop: Stop, say: Callable[[str], None]) -> bool:
    """Be a worker in this process; report errors and warnings by `say`.

    Return whether there was no error.
    """
    logging.getLogger("search").addHandler(_Telling(say))
    try:
        _work(config, stop, say)
    except (UserError, KeepsFailing, DatabaseGone, StudyGone) as error:
        say(str(error))
        return False
    except Exception as error:
        refused = is_refusal(error)
        say(f"--storage: {first_line(error)}" if refused else traceback.format_exc())
        return False
    return True


def _work(config: WorkerConfig, stop: Stop, say: Callable[[str], None]) -> None:
    """Run trials until the study's budget is spent, or those that are wanted have been run, or
    `stop` asks for an end.

    A database that does not answer at the start is waited for too, since the process that made
    `config` has reached it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = config.load()
    machine = config.machine(study, say)
    outage = Outage()
    while not stop.is_asked():
        try:
            # Only the command itself tries variants again that have failed too often.
            with Worker.open(config, study, machine, retry=False) as worker:
                budget = study.budget if config.wanted is None else None
                worker.work(stop, budget=budget, wanted=config.wanted)
                return
        except Exception as error:
            outage.note(error)
            stop.wait(WAIT_SECONDS)


class _Telling(logging.Handler):
    """Passes log messages on to the process that owns the terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
