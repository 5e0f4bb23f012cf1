"""One worker of a search, as a value that can be given to another process or machine."""

import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import make_url

from search.artifacts.store import from_any_folder, open_artifacts
from search.database.database import Database
from search.database.outage import DatabaseGone, Outage, first_line, is_outage, is_refusal
from search.database.studies import join
from search.errors import UserError
from search.study.study import Study, load
from search.worker.claims import LEASE_SECONDS, StudyGone
from search.worker.session import Machine
from search.worker.worker import WAIT_SECONDS, KeepsFailing, Stop
from search.worker.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class Job:
    """Works on a study that is in the database; can be pickled."""

    study: str
    """A name or path for `search.study.load`: a study itself may hold what cannot be pickled."""
    changes: Mapping[str, Any]
    """Fields of the study that are other than `load` returns them."""
    storage: str = field(repr=False)  # it may hold a password
    data: Path
    artifacts: str
    """As for `search.artifacts.store.open_artifacts`."""
    device: str = "auto"
    threads: int | None = None
    measure_train: bool = False
    lease_seconds: float = LEASE_SECONDS

    def from_any_folder(self) -> "Job":
        """Return the same job for a process whose working folder is another one."""
        url = make_url(self.storage)
        if url.get_backend_name() == "sqlite" and url.database:
            url = url.set(database=str(Path(url.database).absolute()))
        return replace(
            self,
            study=str(Path(self.study).absolute()) if self.study.endswith(".py") else self.study,
            storage=url.render_as_string(hide_password=False),
            data=self.data.absolute(),
            artifacts=from_any_folder(self.artifacts),
        )

    def serve(self, stop: Stop, say: Callable[[str], None]) -> bool:
        """Work as `work` does, and tell errors and warnings; return whether there was no error."""
        logging.getLogger("search").addHandler(_Telling(say))
        try:
            self.work(stop, say)
        except (UserError, KeepsFailing, DatabaseGone, StudyGone) as error:
            say(str(error))
            return False
        except Exception as error:
            refused = is_refusal(error)
            say(f"--storage: {first_line(error)}" if refused else traceback.format_exc())
            return False
        return True

    def work(self, stop: Stop, say: Callable[[str], None]) -> None:
        """Run trials until the study's budget is spent or `stop` asks for an end.

        A database that does not answer is waited for, since whoever made this job has reached it.

        Raises:
            UserError: this machine lacks what the search needs, or may not use the database.
            KeepsFailing, DatabaseGone, StudyGone: as `search.worker.worker.work` does.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = replace(load(self.study), **self.changes)
        machine = Machine.of(
            study, device_name=self.device, threads=self.threads, root=self.data, say=say
        )
        outage = Outage()
        while not stop.is_asked():
            try:
                self._work(study, machine, stop)
            except DatabaseGone:
                raise
            except Exception as error:
                if not is_outage(error):
                    raise
                outage.goes_on(error)
                stop.wait(WAIT_SECONDS)
            else:
                return

    def _work(self, study: Study, machine: Machine, stop: Stop) -> None:
        with closing(Database(self.storage)) as database:
            place = Workplace(
                study=study,
                # What failed again and again is for whoever types the command to try once more.
                joined=join(database, study, data_digest=machine.data_digest, retry=False),
                database=database,
                machine=machine,
                artifacts=open_artifacts(self.artifacts),
                lease_seconds=self.lease_seconds,
            )
            place.work(stop, budget=study.trials, measure_train=self.measure_train)


class _Telling(logging.Handler):
    """Tells what is logged to whoever has the terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
