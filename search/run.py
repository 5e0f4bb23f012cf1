"""Run or resume a search: `python -m search.run --study cifar`.

Everything is in the database: the same command resumes a search, however it was stopped.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from search.cli.options import (
    PLACES,
    add_running,
    add_search,
    changes,
    check_storage,
    commands,
    given,
    named,
    workers,
)
from search.cli.parser import Parser, command, decimal, or_none, share, whole
from search.errors import UserError
from search.study.numerals import decimal_number

if TYPE_CHECKING:
    from rich.console import Console

    from search.analysis.answer import Answer
    from search.database.snapshot import Overview
    from search.study.budget import Budget
    from search.study.space import Value
    from search.study.study import Study
    from search.worker.stop import Stop
    from search.worker.worker import Worker

EPILOG = """\
examples:
  python -m search.run --study digits                     quick start: 20 trials, a minute or two
  python -m search.run --study cifar                      run or resume
  python -m search.run --study cifar --workers auto       a trial on each core, or each GPU
  python -m search.run --study cifar --epochs-budget 800  extend a finished study
  python -m search.run --study cifar --enqueue "optimizer=SGD lr=0.02"
  python -m search.run --study my/flowers.py              a custom study
  python -m search.run --study cifar --storage postgresql://me:secret@host/db

exit status: 0 done, 1 the search failed, 2 invalid request,
129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM (the same command resumes)
"""


def parser() -> Parser:
    made = Parser(
        "search.run",
        "Run or resume a study: the fixed variants first, then sampled trials, pruned on accuracy, "
        "until the budget is spent; then, if the study says so, its best trials again with fresh "
        "seeds.",
    )
    made.epilog = EPILOG
    add_search(made)
    budget = made.add_argument_group("budget")
    budget.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="budget: the total number of finished trials, including pruned ones and variants; "
        "stored with the study (default: the stored one, at first that of the study's file; 20 for "
        "digits, none for cifar)",
    )
    budget.add_argument(
        "--epochs-budget",
        type=whole(1),
        metavar="N",
        help="budget: the total number of epochs of all trials; the last trials are cut short, and "
        "go on under a larger budget; with --trials, the search ends as soon as one of the two is "
        "spent (default: as for --trials; 400 for cifar, in proportion to --epochs)",
    )
    budget.add_argument(
        "--target",
        type=or_none(decimal),
        default=argparse.SUPPRESS,
        metavar="VALUE",
        help="end the search once a completed trial has reached this value of the study's metric, "
        "such as 0.80; stored with the study; `none` takes it back (default: the stored one, at "
        "first the study's; none)",
    )
    budget.add_argument(
        "--patience",
        type=or_none(whole(1)),
        default=argparse.SUPPRESS,
        metavar="N",
        help="end the search once N trials, pruned ones included and canceled ones not, have "
        "finished without a better one; stored with the study; `none` takes it back (default: as "
        "for --target)",
    )
    budget.add_argument(
        "--confirm",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="after the search, train its best trials again with fresh seeds, and the winner with "
        "seeds that had no part in choosing it; of a budget in epochs, these are set aside "
        "(default: the study's; yes for cifar)",
    )
    budget.add_argument(
        "--audit",
        type=share,
        metavar="SHARE",
        help="after the search, run this share of the pruned trials to their last epoch, outside "
        "the budget; the report then tells how often pruning was wrong (default: the study's; 0)",
    )
    trials = made.add_argument_group("trials")
    trials.add_argument(
        "--variants",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the study's variants first, or do not enqueue them (default: run them first)",
    )
    trials.add_argument(
        "--enqueue",
        action="append",
        default=[],
        metavar="PARAMS",
        help='run a trial with these values, such as "optimizer=SGD lr=0.02", or with those of the '
        "variant of this name; what is not given is sampled; the trial is never pruned, and raises "
        "a budget that is too small for it; can be given several times (default: none)",
    )
    trials.add_argument(
        "--redefine",
        action="store_true",
        help="change the ranges, sampler and pruner of the study in the database to those of its "
        "file, for the trials from now on; a choice that is new needs a default, which earlier "
        "trials have (default: a study that differs is refused)",
    )
    trials.add_argument(
        "--from",
        dest="learn_from",
        action="append",
        default=[],
        metavar="STUDY",
        help="let the sampler learn from the finished trials of another study in the database, as "
        "far as they fit; stored with the study; can be given several times (default: none)",
    )
    trials.add_argument(
        "--measure-train",
        action="store_true",
        help="also measure the train loss and accuracy of sampled trials, which takes a third of "
        "an epoch; those of variants are always measured (default: no)",
    )
    running = made.add_argument_group("workers")
    add_running(running)
    running.add_argument(
        "--workers",
        type=workers,
        default=1,
        metavar="N",
        help="number of workers, processes that run one trial at a time each; CUDA devices are "
        "assigned in turn; `auto` starts one for each CUDA device, or for each CPU core that this "
        "process may use (default: 1)",
    )
    running.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the workers on the Ray cluster at ADDRESS, such as 10.0.0.1:6379; `auto` finds "
        "this machine's cluster, `local` starts one; needs the extra `cluster` (default: processes "
        "on this machine)",
    )
    running.add_argument(
        "--gpus-per-worker",
        type=_gpus,
        metavar="F",
        help="with --ray: GPUs for each worker, a whole number, or a fraction to share a GPU "
        "(default: 1 if the cluster has any, else 0)",
    )
    return made


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a search ended."""

    study: "Study"
    """With the changes that the options make, and the stored budget."""
    overview: "Overview"
    answer: "Answer"
    is_done: bool
    """Whether the budget is spent."""
    stop: "Stop"


def run(options: argparse.Namespace) -> int:
    """Load the study and search."""
    from search.study.study_file import load

    study = load(options.study)

    from search.database.outage import DatabaseGone
    from search.launch.supervisor import KeepsDying
    from search.worker.claims import StudyGone
    from search.worker.worker import KeepsFailing

    try:
        ended = search(options, study)
    except (DatabaseGone, KeepsFailing, KeepsDying, StudyGone) as error:
        print(f"search.run: {error}", file=sys.stderr)
        return 1
    if ended.is_done:
        return 0
    return ended.stop.exit_status if ended.stop.is_asked() else 1


def search(options: argparse.Namespace, study: "Study") -> Ended:
    """Check all options, then search; nothing is written before the checks pass.

    Raises:
        UserError: an option is invalid.
        KeepsFailing, KeepsDying, DatabaseGone, StudyGone: as `search.launch.launcher.Crew.work`
            does.
    """
    started = time.monotonic()
    asked = _asked(options)
    changed, enqueue = _checked(options, study, asked)
    named = {name: one for name, one in study.every_variant.items() if name in options.enqueue}
    study = study.changed(changed).with_variants(named)

    from search.analysis.answer import answer
    from search.database.budgets import agree_on_budget
    from search.database.snapshot import Observer
    from search.launch.launcher import hired
    from search.reporting.progress import show_progress
    from search.reporting.terminal import console, summary
    from search.worker.config import WorkerConfig
    from search.worker.stop import Stop
    from search.worker.worker import Worker

    out = console()
    say = partial(out.print, soft_wrap=True)
    with ExitStack() as stack:
        crew = stack.enter_context(hired(options, uses_torch=study.trainer.uses_torch))
        config = WorkerConfig(
            **given(options, *PLACES),
            changes=changed,
            device=crew.device,
            threads=crew.threads,
            measure_train=options.measure_train,
        )
        machine = config.machine(study, out.print)
        worker = stack.enter_context(
            Worker.open(
                config,
                study,
                machine,
                given=enqueue,
                redefine=options.redefine,
                learn_from=options.learn_from,
            )
        )
        agreed = agree_on_budget(
            worker.database,
            worker.joined,
            of_file=study.budget,
            asked=asked,
            has_enqueued=bool(options.enqueue),
            confirm=study.confirm,
        )
        budget = study.for_search(agreed)
        study = worker.study.with_budget(budget)
        observer = Observer(worker.database, worker.joined)
        for line in _head(options, worker, observer.look(), budget, agreed):
            say(line)
        if not worker.claims.is_spent(budget):
            out.print(f"On {crew.where or machine}.")
        stop = Stop(deadline=started + options.timeout if options.timeout else None)
        with show_progress(observer, out, study, budget=budget), stop.on_signals():
            crew.work(worker, stop, budget=budget, say=say)
        overview = observer.look()
        is_done = worker.claims.is_spent(budget)
        if is_done and study.confirm is not None and overview.ranked and not stop.is_asked():
            out.print("Confirmation: the best trials with fresh seeds.")
            is_done = _confirm(worker, overview, partial(crew.work, say=say), stop, out)
        if stop.is_asked() and not is_done:
            say(f"Stopped by {stop}; run the same command to resume.")
        elif is_done:
            say(
                _why(
                    budget,
                    overview,
                    worker.claims.early_end(budget),
                    has_enqueued=bool(options.enqueue),
                )
            )
        say(f"This command took {timedelta(seconds=round(time.monotonic() - started))}.")
        found = answer(worker.database, overview)
        out.print(summary(overview, study, found))
        for line in _next(options, study, overview, found):
            say(line)
    return Ended(study=study, overview=overview, answer=found, is_done=is_done, stop=stop)


def _checked(
    options: argparse.Namespace, study: "Study", asked: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, "Value"]]]:
    """Return the fields of the study that the options change, and the values to enqueue.

    Raises:
        UserError: an option is invalid.
    """
    from search.artifacts.store import open_artifacts
    from search.study.confirmation import Confirmation

    variants = study.every_variant  # also those that --no-variants leaves out
    changed = changes(options, study) | given(options, "audit")
    if options.epochs is not None and study.epochs_budget is not None:  # as many trials as before
        changed["epochs_budget"] = math.ceil(study.epochs_budget * options.epochs / study.epochs)
    if not options.variants:
        changed["variants"] = {}
    if options.confirm is not None:
        changed["confirm"] = (study.confirm or Confirmation()) if options.confirm else None
    study = study.changed(changed)
    try:
        enqueue = list(_values(options.enqueue, variants, study))
    except UserError as error:
        raise UserError(f"--enqueue: {error}") from error
    study.for_search(study.budget.changed(asked))
    definition = check_storage(options.storage, study.name, must_exist=False)
    if definition is not None and getattr(study.trainer, "precision", "none") is None:
        changed["precision"] = definition["precision"]  # whatever this machine would choose
    open_artifacts(options.artifacts).check()
    return changed, enqueue


def _values(
    texts: Iterable[str], variants: Collection[str], study: "Study"
) -> Iterator[dict[str, "Value"]]:
    """Yield the values of the texts that are not the name of one of the `variants`.

    Raises:
        UserError: a text is neither.
    """
    for text in texts:
        if text in variants:
            continue
        if text.strip() and "=" not in text:
            known = ", ".join(variants) or "none"
            raise UserError(
                "parameters must be NAME=VALUE, separated by spaces, or the name of a variant "
                f"({known}), not {text!r}"
            )
        yield study.space.parse(text)


def _asked(options: argparse.Namespace) -> Mapping[str, Any]:
    """Return the fields of the budget that the options give."""
    limits = {"trials": options.trials, "epochs": options.epochs_budget}
    found: dict[str, Any] = {name: n for name, n in limits.items() if n is not None}
    # None takes one of these back, so those that are not given are not there at all.
    ends = (name for name in ("target", "patience") if name in options)
    return found | {name: getattr(options, name) for name in ends}


def _head(
    options: argparse.Namespace,
    worker: "Worker",
    overview: "Overview",
    budget: "Budget",
    agreed: "Budget",
) -> Iterator[str]:
    """Yield the lines that a search begins with; `budget` is the part of the agreed one that the
    confirmation leaves."""
    from optuna.trial import TrialState

    from search.database.identity import study_ref
    from search.database.knowledge import changes
    from search.database.redefinition import redefinitions
    from search.worker.environment import last_with_another_file

    write = commands(options)
    n_begun = overview.counts[TrialState.RUNNING]
    begun = f", {n_begun} begun; {overview.n_recorded} epochs recorded" if n_begun else ""
    yield f"Study {worker.study.name} in {worker.database}: {_spent(budget, overview)} done{begun}."
    if budget.ends_early_with:
        yield f"It ends early with {budget.ends_early_with}."
    if worker.claims.asked() is not None:
        resume = write.line("search resume", shlex.quote(worker.study.name))
        yield f"It is paused: its workers wait until it is resumed by `{resume}`."
    ref = study_ref(worker.joined)
    yield from changes(worker.database, ref, worker.study.space)
    if agreed.epochs is not None and budget.epochs is not None and budget != agreed:
        yield (
            f"Of the budget of {agreed.epochs} epochs, {agreed.epochs - budget.epochs} are set "
            "aside for the confirmation."
        )
    other = last_with_another_file(overview.trials, worker.machine.environment)
    redefined = redefinitions(worker.database, ref)
    if other is not None and not any(one.trial > other for one in redefined):
        yield (
            f"The study's file has changed since trial {other} was trained; a replay of the "
            "earlier trials can differ. Give another --name to begin a new study."
        )
    yield f"View it with: {write.line('search.dashboard', *_places(options, 'artifacts'))}"


def _why(budget: "Budget", overview: "Overview", early: str | None, *, has_enqueued: bool) -> str:
    """Return why the search has ended; `early` is what ended it before its budget was spent."""
    trials, epochs = len(overview.finished), overview.n_recorded
    if early is None or budget.is_spent(trials=trials, epochs=epochs):
        return f"Ended: {_spent(budget, overview)} are done."
    waits = ""
    if has_enqueued:
        waits = " What was enqueued waits; --target none, or --patience none, goes on with it."
    return f"Ended early: {early}.{waits}"


def _spent(budget: "Budget", overview: "Overview") -> str:
    return budget.text(trials=len(overview.finished), epochs=overview.n_recorded)


def _next(
    options: argparse.Namespace, study: "Study", overview: "Overview", answer: "Answer"
) -> Iterator[str]:
    """Yield the commands to go on with."""
    from search.analysis.ties import Ties

    if answer.best is None:
        return
    write, name = commands(options), named(options)
    yield "Next:"
    if options.study:  # a study that is no file has neither
        yield f"  {write.line('search.report', name)}"
    if options.study and answer.confirmed is None:
        places = _places(options, "data", "artifacts")
        which = Ties.of(study, overview.ranked, answer).to_run_again
        again = write.line("search.reproduce", name, which, "--repeats 5", *places)
        yield f"  {again}"
    yield f"  {write.line('search.dashboard', *_places(options, 'artifacts'))}"


def _confirm(
    worker: "Worker",
    overview: "Overview",
    work: "Callable[[Worker, Stop, Collection[str]], None]",
    stop: "Stop",
    out: "Console",
) -> bool:
    """Confirm the best trials of the search with the workers that `work` has; return whether all
    re-runs have finished."""
    from search.database.outage import tolerating_outage
    from search.reporting.notes import Notes
    from search.worker.reruns import Reruns, rerun_name

    study = worker.study
    assert study.confirm is not None
    name = rerun_name(worker.database, overview, study.name)
    no_variants: dict[str, Any] = {"variants": {}, "optional_variants": {}}
    own = no_variants | {"name": name, "confirm": None, "audit": 0.0}
    reruns = Reruns(
        study=study.changed(own),
        config=replace(worker.config, changes={**worker.config.changes, **own}),
        machine=worker.machine,
        out=out,
        origin=overview.study_key,
        work=work,
    )
    is_done = reruns.confirm(overview, study.confirm, stop)
    with tolerating_outage():
        Notes.of(worker.database, study).update()
    return is_done


def _places(options: argparse.Namespace, *names: str) -> Iterator[str]:
    """Yield those of the named options that are not at their defaults, as a shell's words."""
    for name in names:
        value = getattr(options, name)
        if value != parser().get_default(name):
            yield f"--{name} {shlex.quote(str(value))}"


def _gpus(text: str) -> float:
    """Return a number of GPUs that Ray accepts: a whole number, or a fraction of one GPU."""
    number = decimal_number(text)
    if number is None or number < 0 or (number > 1 and number != int(number)):
        raise argparse.ArgumentTypeError(
            f"a whole number of GPUs, or a fraction of one, is needed, not {text!r}"
        )
    return number


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
