"""The notes in Optuna's dashboard: one on the study and one on each variant.

Workers write them after trials, with a few queries whose cost hardly grows with the study. A note
that a user wrote or changed is kept: each generated note ends in an invisible line with the SHA-256
of the rest. As a part of the note, this line survives when the dashboard renames a study.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection, String, cast, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

from search.analysis.answer import Answer, answer_from_reruns, reruns_of
from search.analysis.published import published_values
from search.analysis.rerun_metrics import Repeats
from search.analysis.ties import Ties
from search.database import optuna_internals, queries, tables
from search.database.budgets import search_budget
from search.database.database import Database
from search.database.identity import study_ref
from search.database.knowledge import changes
from search.database.leases import leases
from search.database.queries import StudyRef
from search.database.snapshot import Overview
from search.database.studies import ORIGIN_KEY, files_of
from search.reporting import variant_tables
from search.reporting.choices import ChoicesTable
from search.reporting.curves import curves_id
from search.reporting.rendering import template
from search.study.metrics import Epoch, words
from search.study.pruners import Halving, Promotion
from search.study.space import params_text, range_text
from search.study.study import Study
from search.study.trial_attributes import FINISHED, label

BEST = 5
"""Maximum number of best trials in the note, and in the final table of a search."""
TOLD = 10
"""Maximum number of trials completed by other programs in the note."""
SIGNATURE = "\n\n[sha256]: # "
"""Precedes the SHA-256 at the end of a note: a link definition, which Markdown does not show."""
ATTEMPTS = 20
"""Maximum number of writes: one fails if another process writes, or if the study is deleted."""
UPDATE_SECONDS = 5.0
"""Minimum time between two updates by a worker while it runs trials."""
NOTE_LENGTH = 2045
"""Maximum length in characters of an attribute that holds a part of a note."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of a study at one moment, as far as its note shows it."""

    counts: Counter[TrialState]
    n_epochs: int
    """Number of recorded epochs of all trials."""
    some: Overview
    """The best trials, those with re-runs, the variants, and some of those completed by other
    programs."""
    answer: Answer
    is_of_reruns: bool = False
    """Whether its trials are re-runs of another study's trials."""
    changes: Sequence[str] = ()
    """Its redefinitions, and what its sampler knows of other studies, a sentence each."""

    @classmethod
    def of(cls, database: Database, study: Study, ref: StudyRef) -> Self:
        storage, runs = database.optuna, reruns_of(database, ref.key)
        with database.engine.connect() as connection:
            counts = queries.counts(connection, ref)
            n_epochs = queries.n_epochs(connection, ref)
            held = leases(connection, ref.key)
            best = queries.best(connection, ref, epochs=study.epochs, n=BEST)
            fixed = queries.fixed(connection, ref)
            ids = _told_ids(connection, ref, study) | _ids(connection, ref, runs)
        ids |= {place.trial_id for place in best}
        ids |= {entry.trial_id for entry in fixed if entry.name in study.every_variant}
        trials = sorted(map(storage.get_trial, ids), key=lambda trial: trial.number)
        numbers = [trial.number for trial in trials]
        epochs = database.epochs_of_study(ref.key, numbers)
        some = Overview.of_trials(
            trials,
            study_key=ref.key,
            epochs=epochs,
            leases=held,
            n_epochs=study.epochs,
            objective=study.objective,
            final=study.final,
        )
        return cls(
            counts=counts,
            n_epochs=n_epochs,
            some=some,
            answer=answer_from_reruns(some, runs),
            is_of_reruns=ORIGIN_KEY in storage.get_study_user_attrs(ref.study_id),
            changes=changes(database, ref, study.space),
        )


def _ids(connection: Connection, ref: StudyRef, runs: Repeats) -> set[int]:
    """Return the ids of the study's trials that have re-runs in `runs`."""
    if not runs:
        return set()
    trials = optuna_internals.trials
    names = literal("trial ") + cast(trials.c.number, String)
    query = select(trials.c.trial_id).where(trials.c.study_id == ref.study_id, names.in_(runs))
    return set(connection.scalars(query))


def _told_ids(connection: Connection, ref: StudyRef, study: Study) -> set[int]:
    """Return the ids of the first `TOLD` trials that other programs completed."""
    trials, values = optuna_internals.trials, optuna_internals.trial_values
    epochs, sign = tables.epochs, study.objective.score(1)
    last = (epochs.c.trial == trials.c.number) & (epochs.c.number == study.epochs)
    query = (
        select(trials.c.trial_id)
        .outerjoin_from(trials, epochs, (epochs.c.study_key == ref.key) & last)
        .outerjoin(values, values.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == ref.study_id, trials.c.state == TrialState.COMPLETE)
        .where(epochs.c.score.is_(None) | values.c.value.is_distinct_from(sign * epochs.c.score))
        .order_by(trials.c.number)
        .limit(TOLD)
    )
    return set(connection.scalars(query))


@dataclass(kw_only=True)
class Notes:
    """The notes of a study in the database.

    They are written without a lock: each note has a version, which is read before the trials. A
    writer that finds another version then reads the trials again.
    """

    database: Database
    study: Study
    joined: optuna.Study
    _updated_at: float = field(default=-math.inf, init=False)
    """By `time.monotonic()`."""

    @classmethod
    def of(cls, database: Database, study: Study) -> Self:
        """Return the notes of a study in the database, with its stored budget."""
        joined = optuna.load_study(study_name=study.name, storage=database.optuna)
        budget = search_budget(joined) or study.budget
        return cls(database=database, study=study.with_budget(budget), joined=joined)

    def update(self) -> None:
        """Update the notes."""
        for _ in range(ATTEMPTS):
            if self._write():
                return

    def update_if_due(self) -> None:
        """Update the notes unless this worker did so within `UPDATE_SECONDS`. An update that meets
        another writer is dropped; `update` follows at the end."""
        if time.monotonic() - self._updated_at >= UPDATE_SECONDS:
            self._write()

    def _write(self) -> bool:
        """Write the changed notes in one transaction; return False if another writer was faster."""
        self._updated_at = time.monotonic()
        storage, ref = self.database.optuna, study_ref(self.joined)
        there = storage.get_study_system_attrs(ref.study_id)  # read before the trials
        progress = Progress.of(self.database, self.study, ref)
        notes: dict[int | None, str] = {None: text(self.study, progress)}
        files = files_of(self.database, ref)
        for name, trial in progress.some.variants.items():
            if name in self.study.every_variant:
                epochs = progress.some.of(trial)
                curves = curves_id(files, trial.number)
                its_id = optuna_internals.trial_id(trial)
                link = f"/artifacts/{ref.study_id}/{its_id}/{curves}" if epochs else None
                notes[its_id] = variant_text(self.study, name, epochs, link)
        try:
            with self.database.engine.begin() as connection:
                for trial_id, now in notes.items():
                    for key, value in _attributes(there, trial_id, _signed(now)).items():
                        _set(connection, ref.study_id, key, value, there.get(key))
        except (IntegrityError, _Overtaken):
            return False
        return True


class _Overtaken(Exception):
    """An attribute has changed since it was read."""


def _signed(note: str) -> str:
    return f'{note}{SIGNATURE}"{hashlib.sha256(note.encode()).hexdigest()}"'


def _attributes(there: Mapping[str, Any], trial_id: int | None, note: str) -> dict[str, Any]:
    """Return the study's system attributes to write for a note, as `optuna_dashboard.save_note`
    does; `there` are its present ones. Empty if the present note is the same, or is a user's.

    Importing that module, and with it the dashboard, would cost every worker a second.
    """
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    before = sum(key.startswith(f"{prefix}note_str:") for key in there)
    standing = "".join(str(there.get(f"{prefix}note_str:{n}", "")) for n in range(before))
    is_ours = standing == _signed(standing.rpartition(SIGNATURE)[0])
    if standing == note or (standing and not is_ours):
        return {}
    parts = [note[at : at + NOTE_LENGTH] for at in range(0, len(note), NOTE_LENGTH)]
    parts += [""] * (before - len(parts))
    version = there.get(f"{prefix}note_ver", 0) + 1
    return {f"{prefix}note_ver": version} | {
        f"{prefix}note_str:{n}": part for n, part in enumerate(parts)
    }


def _set(connection: Connection, study_id: int, key: str, value: object, before: object) -> None:
    """Set a system attribute of the study as Optuna does, but in the connection's transaction, and
    only if its value is still `before`; None if it did not exist.

    Raises:
        IntegrityError, _Overtaken: another writer has set it.
    """
    table = optuna_internals.study_system_attributes
    written = {"value_json": json.dumps(value)}
    if before is None:
        connection.execute(insert(table).values(study_id=study_id, key=key, **written))
        return
    there = (table.c.study_id == study_id) & (table.c.key == key)
    same = there & (table.c.value_json == json.dumps(before))
    if not connection.execute(update(table).where(same).values(written)).rowcount:
        raise _Overtaken


def text(study: Study, progress: Progress) -> str:
    """Return the study's note in Markdown."""
    finished = sum(progress.counts[state] for state in FINISHED)
    halving = study.pruner if isinstance(study.pruner, Halving) else None
    some, answer = progress.some, progress.answer
    ties = Ties.of(study, some.ranked[:BEST], answer)
    best = ChoicesTable(title="", trials=answer.leading(some.ranked, BEST), rows=())
    return template("note.md").render(
        study=study,
        spent=(
            f"{finished} trials"
            if progress.is_of_reruns
            else study.budget.text(trials=finished, epochs=progress.n_epochs)
        ),
        complete=progress.counts[TrialState.COMPLETE],
        pruned=progress.counts[TrialState.PRUNED],
        failed=progress.counts[TrialState.FAIL],
        best=[] if progress.is_of_reruns else _best_rows(best, ties, answer),
        common=best.common,
        ties=ties.text,
        is_of_reruns=progress.is_of_reruns,
        has_fresh=bool(answer.standings),
        not_rerun=answer.not_rerun and label(answer.not_rerun),
        told=[
            (label(trial), some.told[trial.number])
            for trial in some.trials
            if trial.number in some.told and trial.state == TrialState.COMPLETE
        ],
        caution=answer.text or study.caution,
        variants=variant_tables.variants(some, study),
        compared=variant_tables.caption(study),
        rungs=halving and ", ".join(map(str, halving.rungs(study.epochs - 1))),
        kept=halving and f"{halving.keep:.0%}",
        is_promoting=isinstance(study.pruner, Promotion),
        first_loss=study.first_loss and words(study.first_loss),
        pruner=type(study.pruner).__name__,
        data=[f"`{study.dataset}`", study.trained_on] if study.dataset else [],
        changes=progress.changes,
        ranges=[(name, range_text(range_)) for name, range_ in study.space.ranges.items()],
    )


def _best_rows(best: ChoicesTable, ties: Ties, answer: Answer) -> list[Mapping[str, str]]:
    return [
        {
            "number": str(trial.number),
            "name": label(trial).removeprefix(str(trial.number)),
            "value": ties.marked(trial),
            "fresh": str(standing.honest) if standing else "",
            "choices": best.own_choices(trial),
        }
        for trial in best.trials
        for standing in (answer.standings.get(trial.number),)
    ]


def variant_text(study: Study, name: str, epochs: Sequence[Epoch], curves: str | None) -> str:
    """Return the note on a variant's trial in Markdown; `curves` is the path of its picture."""
    return template("variant.md").render(
        name=name,
        choices=params_text(study.space.params(study.every_variant[name])),
        metric=study.final.words,
        curves=curves,
        ours=variant_tables.best_epoch(study, variant_tables.measured(study, epochs)),
        published=variant_tables.best_epoch(study, published_values(study, name)),
        compared=variant_tables.caption(study),
    )
