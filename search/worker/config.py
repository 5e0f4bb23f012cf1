"""The settings of a worker, as a value that can be sent to another process or machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from search.artifacts.store import from_any_folder
from search.study.study import Study
from search.study.study_file import load
from search.worker.claims import LEASE_SECONDS
from search.worker.machine import Machine


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    study: str
    """A name or path for `search.study.load`: a study itself may hold what cannot be pickled."""
    changes: Mapping[str, Any]
    """Fields of the study and its trainer to replace after loading."""
    storage: str = field(repr=False)  # it may hold a password
    data: Path
    artifacts: str
    """As for `search.artifacts.store.open_artifacts`."""
    device: str = "auto"
    threads: int | None = None
    measure_train: bool = False
    """Measure the train metrics of sampled trials too, if they begin here."""
    wanted: Sequence[str] | None = None
    """The names of the enqueued trials to run; None for all trials until the budget is spent."""
    lease_seconds: float = LEASE_SECONDS
    since: float | None = None
    """As for `search.worker.claims.Claims`; None for the moment at which the worker is opened."""

    def load(self) -> Study:
        """Return the study."""
        return load(self.study).changed(self.changes)

    def machine(self, study: Study, say: Callable[[str], None]) -> Machine:
        """Return this machine with the study's session.

        Raises:
            UserError: as `Machine.of` does.
        """
        return Machine.of(
            study,
            device_name=self.device,
            threads=self.threads,
            root=self.data,
            say=say,
            file=self.study if self.study.endswith(".py") else "",
        )

    def from_any_folder(self) -> "WorkerConfig":
        """Return the same settings with absolute paths, for a process in another folder."""
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
