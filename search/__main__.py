"""Look at the studies of a database, and steer their workers: `python -m search`.

Everything goes through the database, so a command reaches the workers of a study wherever they run.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from search import output
from search.cli.options import add_artifacts, add_storage, check_storage, commands
from search.cli.parser import CommandParser, Parser, command, whole
from search.errors import UserError
from search.files import encoded, write_out

if TYPE_CHECKING:
    from search.database.database import Database
    from search.database.queries import StudyRef

EPILOG = """\
examples:
  python -m search list                                the studies in search.db
  python -m search status cifar                        progress, best trial, running trials
  python -m search stop cifar                          stop its workers, wherever they run
  python -m search cancel cifar --trial 17             end a trial for good
  python -m search export cifar --out cifar.csv        all trials
  python -m search export cifar --best --as enqueue    the best choices, as a line for --enqueue

The other commands: python -m search.run, search.reproduce, search.report, search.dashboard.

exit status: 0 done, 1 the database failed, 2 invalid request
"""


def parser() -> Parser:
    made = Parser("search", "Look at the studies of a database, and steer their workers.")
    made.epilog = EPILOG
    made.add_argument("--version", action="version", version=_version())
    every = made.add_subparsers(dest="command", required=True, parser_class=CommandParser)

    def add(
        run: Callable[[argparse.Namespace], int], name: str, brief: str, more: str = ""
    ) -> Parser:
        one: Parser = every.add_parser(
            name, help=brief, description=f"{brief[0].upper()}{brief[1:]}. {more}".strip()
        )
        one.set_defaults(run=run)
        if name != "list":
            one.add_argument("study", metavar="STUDY", help="name of the study in the database")
        add_storage(one)
        return one

    add(_list, "list", "list the studies of a database")
    add(_status, "status", "show the progress of a study, its best trial and its running trials")
    add(
        _stop,
        "stop",
        "stop all workers of a study, wherever they run",
        "They stop within seconds, or at the end of an epoch if the training does not call "
        "after_batch. Their trials resume when workers are started again.",
    )
    add(
        _pause,
        "pause",
        "let all workers of a study wait, and those that are started later",
        "They leave their trials at once, and keep their memory, until the study is resumed.",
    )
    add(_resume, "resume", "let the workers of a paused study go on")
    cancel = add(
        _cancel,
        "cancel",
        "end a trial for good",
        "It can be a running one, one that waits to be run or to be promoted, or one that the "
        "budget cut short.",
    )
    cancel.add_argument(
        "--trial", type=whole(0), required=True, metavar="N", help="number of the trial (required)"
    )
    delete = add(_delete, "delete", "delete a study, its trials and its files")
    delete.add_argument("--yes", action="store_true", help="needed: confirms it (default: no)")
    copy = add(_copy, "copy", "copy a study, its trials and its files under another name")
    copy.add_argument("new", metavar="NEW", help="name of the copy")
    export = add(_export, "export", "write all trials of a study, or its best one")
    _add_export(export)
    for one in (delete, copy, export):
        add_artifacts(one)
    return made


def _add_export(made: Parser) -> None:
    made.add_argument(
        "--format",
        choices=("csv", "json"),
        default="csv",
        help="of all trials: csv, a line for each; or json, with the metrics of every epoch "
        "(default: csv)",
    )
    made.add_argument(
        "--best",
        action="store_true",
        help="write the choices of the best trial instead: by the mean of its re-runs, once there "
        "are any (default: no)",
    )
    made.add_argument(
        "--as",
        dest="form",
        choices=("json", "python", "enqueue"),
        help="with --best: json; python, the source of the dataclass, which needs --file unless "
        "the study is shipped; or enqueue, a value of search.run's --enqueue (default: json)",
    )
    made.add_argument(
        "--file",
        metavar="FILE",
        help="the Python file that defines the study (default: the shipped study of this name)",
    )
    made.add_argument(
        "--weights",
        metavar="TRIAL",
        help="write the weights of this trial instead: a number, the name of a variant, or best; "
        "needs --out (default: none)",
    )
    made.add_argument(
        "--out",
        metavar="FILE",
        help="file to write, or - for standard output (default: standard output)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name."""
    found: int = options.run(options)
    return found


def _list(options: argparse.Namespace) -> int:
    from search.reporting.status import listed
    from search.reporting.terminal import console

    with _opened(options) as database:
        console().print(listed(database, commands(options)))
    return 0


def _status(options: argparse.Namespace) -> int:
    from search.reporting.status import status
    from search.reporting.terminal import console

    with _found(options) as (database, _):
        console().print(status(database, options.study))
    return 0


def _stop(options: argparse.Namespace) -> int:
    from search.database import steering

    n_workers = _steered(options, steering.stop)
    print(f"The workers of {options.study} are asked to stop; {_running(n_workers)}.")
    return 0


def _pause(options: argparse.Namespace) -> int:
    from search.database import steering

    n_workers = _steered(options, partial(steering.pause, is_paused=True))
    resume = commands(options).line("search resume", shlex.quote(options.study))
    print(
        f"The workers of {options.study}, and those that are started later, wait until "
        f"`{resume}`; {_running(n_workers)}."
    )
    return 0


def _resume(options: argparse.Namespace) -> int:
    from search.database import steering

    with _found(options) as (database, study), database.engine.connect() as connection:
        was_paused = steering.read(connection, study.key).is_paused
    _steered(options, partial(steering.pause, is_paused=False))
    goes_on = "goes on with the workers that wait for it" if was_paused else "was not paused"
    print(f"{options.study} {goes_on}.")
    return 0


def _steered(options: argparse.Namespace, steer: "Callable[[Database, StudyRef], None]") -> int:
    """Steer the workers of the study and of the confirmation of its best trials; return how many
    run a trial."""
    from search.database.leases import n_at_work
    from search.database.studies import with_reruns

    with _found(options) as (database, study):
        steered = with_reruns(database, study)
        with database.engine.connect() as connection:
            n_workers = sum(n_at_work(connection, one.key) for one in steered)
        for one in steered:
            steer(database, one)
    return n_workers


def _running(n_workers: int) -> str:
    return f"{n_workers or 'none'} of them {'is' if n_workers < 2 else 'are'} running a trial"


def _cancel(options: argparse.Namespace) -> int:
    from search.database import steering

    with _found(options) as (database, study):
        state = steering.cancel(database, study, options.trial)
    print(f"Trial {options.trial} is canceled; it was {state.name}.")
    return 0


def _delete(options: argparse.Namespace) -> int:
    from search.artifacts.store import open_artifacts
    from search.artifacts.whole_study import delete
    from search.database.queries import counts
    from search.database.studies import with_reruns

    with _found(options) as (database, study):
        every = with_reruns(database, study)
        with database.engine.connect() as connection:
            n_trials = counts(connection, study).total()
        if not options.yes:
            raise UserError(
                f"study {options.study}: give --yes to delete it, its {n_trials} trials, its "
                "re-runs and its files"
            )
        delete(database, open_artifacts(options.artifacts), every)
    trials = f"{n_trials} trial{'s' if n_trials != 1 else ''}"
    print(f"Deleted {options.study}, its {trials} and its re-runs.")
    return 0


def _copy(options: argparse.Namespace) -> int:
    from search.artifacts.store import open_artifacts
    from search.artifacts.whole_study import copy
    from search.study.study import check_name

    check_name(options.new)
    with _found(options) as (database, study):
        copy(database, open_artifacts(options.artifacts), study, options.new)
    name = shlex.quote(options.new)
    print(
        f"Copied {options.study} to {options.new}; the same search with --name {name} resumes it."
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from search.reporting.export import best_trial, trials

    if options.form is not None and not options.best:
        raise UserError("--as: it is for --best")
    if options.weights is not None:
        return _export_weights(options)
    with _found(options) as (database, _):
        if options.best:
            text = best_trial(database, options.study, options.form or "json", file=options.file)
        else:
            text = trials(database, options.study, options.format)
    _write(options.out, encoded(text))
    return 0


def _export_weights(options: argparse.Namespace) -> int:
    from search.weights import find

    if options.out is None:
        raise UserError("--weights: it needs --out, the file to write")
    path = find(options.storage, options.study, options.weights, artifacts=options.artifacts)
    _write(options.out, path.read_bytes())
    return 0


def _write(out: str | None, content: bytes) -> None:
    if out is None or out == "-":
        output.deliver(content)
    elif not write_out(Path(out), content):
        print(f"{out}: {len(content) / 1e3:,.0f} kB")


@contextmanager
def _opened(options: argparse.Namespace) -> "Iterator[Database]":
    check_storage(options.storage)
    from search.database.database import Database

    with closing(Database(options.storage, may_create=False)) as database:
        yield database


@contextmanager
def _found(options: argparse.Namespace) -> "Iterator[tuple[Database, StudyRef]]":
    """Open the database, and find the study."""
    from search.database.studies import study_called

    with _opened(options) as database:
        yield database, study_called(database, options.study)


def _version() -> str:
    try:
        return f"search-service {version('search-service')}"
    except PackageNotFoundError:  # it is not installed, but found by PYTHONPATH
        return "search-service, from a folder"


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
