"""What a study says of itself in Optuna's dashboard: a note on the study, one on each variant.

Written after trials have ended, from a few queries whose cost hardly grows with the study. A note
that somebody else wrote or changed stays: each of ours ends in a line that is not shown, with the
SHA-256 of the rest. It goes where the note goes, as when the dashboard renames a study.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection, String, cast, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

from search.analysis.answer import Answer, decided, reruns_of
from search.analysis.seeds import Repeats
from search.database import optuna_internals, queries, tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.queries import StudyRef
from search.database.snapshot import Overview
from search.database.studies import ORIGIN_KEY, files_of, stored_budget
from search.reporting import variants
from search.reporting.curves import curves_id
from search.reporting.rendering import template
from search.study.choices import FIELDS, in_words, spelled
from search.study.epoch import Epoch
from search.study.pruners import SuccessiveHalving
from search.study.study import Study
from search.study.trial_attributes import FINISHED, label

BEST = 5
"""So many of the best trials are in the note, and in a search's last table."""
TOLD = 10
"""So many of the trials that somebody else completed are in the note."""
SIGNATURE = "\n\n[sha256]: # "
"""Before the sum at a note's end: to Markdown the definition of a link, which is not shown."""
ATTEMPTS = 20
"""Of writing: one that fails has met another writer, or a study that is gone."""
UPDATE_SECONDS = 5.0
"""Between two updates by one worker while it runs trials."""
NOTE_LENGTH = 2045
"""Characters of an attribute that is a part of a note."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A study at one moment, as far as its note tells of it."""

    counts: Counter[TrialState]
    some: Overview
    """Of the best trials, those that were trained again with fresh seeds, the variants, and some of
    those that somebody else completed."""
    answer: Answer
    is_of_reruns: bool = False
    """Whether its trials run those of another study again."""

    @classmethod
    def of(cls, database: Database, study: Study, ref: StudyRef) -> Self:
        storage, runs = database.optuna, reruns_of(database, ref.key)
        with database.engine.connect() as connection:
            counts = queries.counts(connection, ref)
            best = queries.best(connection, ref, epochs=study.epochs, n=BEST)
            fixed = queries.fixed(connection, ref)
            ids = _told_ids(connection, ref, study.epochs) | _ids(connection, ref, runs)
        ids |= {place.trial_id for place in best}
        ids |= {entry.trial_id for entry in fixed if entry.name in study.variants}
        trials = sorted(map(storage.get_trial, ids), key=lambda trial: trial.number)
        numbers = [trial.number for trial in trials]
        epochs = database.epochs_of_study(ref.key, numbers)
        some = Overview.of_trials(trials, epochs=epochs, n_epochs=study.epochs)
        return cls(
            counts=counts,
            some=some,
            answer=decided(some, runs),
            is_of_reruns=ORIGIN_KEY in storage.get_study_user_attrs(ref.study_id),
        )


def _ids(connection: Connection, ref: StudyRef, runs: Repeats) -> set[int]:
    """Return the ids of the study's trials that `runs` have run again."""
    if not runs:
        return set()
    trials = optuna_internals.trials
    names = literal("trial ") + cast(trials.c.number, String)
    query = select(trials.c.trial_id).where(trials.c.study_id == ref.study_id, names.in_(runs))
    return set(connection.scalars(query))


def _told_ids(connection: Connection, ref: StudyRef, n_epochs: int) -> set[int]:
    """Return the ids of some of the trials that somebody else completed, the first ones."""
    trials, values = optuna_internals.trials, optuna_internals.trial_values
    epochs = tables.epochs
    last = (epochs.c.trial == trials.c.number) & (epochs.c.number == n_epochs)
    query = (
        select(trials.c.trial_id)
        .outerjoin_from(trials, epochs, (epochs.c.study_key == ref.key) & last)
        .outerjoin(values, values.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == ref.study_id, trials.c.state == TrialState.COMPLETE)
        .where(epochs.c.score.is_(None) | values.c.value.is_distinct_from(epochs.c.score))
        .order_by(trials.c.number)
        .limit(TOLD)
    )
    return set(connection.scalars(query))


@dataclass(kw_only=True)
class Notes:
    """The notes of a study in the database.

    They are written without a lock: each has a version, and whoever finds another one than it read
    before it looked at the trials looks again.
    """

    database: Database
    study: Study
    joined: optuna.Study
    _updated_at: float = field(default=-math.inf, init=False)
    """By `time.monotonic()`."""

    @classmethod
    def of(cls, database: Database, study: Study) -> Self:
        """Return the notes of a study in the database, with the budget that it has there."""
        joined = optuna.load_study(study_name=study.name, storage=database.optuna)
        trials = stored_budget(joined).get("trials", study.trials)
        return cls(database=database, study=replace(study, trials=trials), joined=joined)

    def update(self) -> None:
        """Bring the notes up to date."""
        for _ in range(ATTEMPTS):
            if self._write():
                return

    def update_if_due(self) -> None:
        """Bring the notes up to date, unless this worker has done so a moment ago, or another
        process does so now: `update` has the last word."""
        if time.monotonic() - self._updated_at >= UPDATE_SECONDS:
            self._write()

    def _write(self) -> bool:
        """Write what has changed, all of it or nothing; return False if somebody was faster."""
        self._updated_at = time.monotonic()
        storage, ref = self.database.optuna, study_ref(self.joined)
        there = storage.get_study_system_attrs(ref.study_id)  # before what they are made of
        progress = Progress.of(self.database, self.study, ref)
        notes: dict[int | None, str] = {None: text(self.study, progress)}
        files = files_of(self.database, ref)
        for name, trial in progress.some.variants.items():
            if name in self.study.variants:
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
    """An attribute is not what it was when it was read."""


def _signed(note: str) -> str:
    return f'{note}{SIGNATURE}"{hashlib.sha256(note.encode()).hexdigest()}"'


def _attributes(there: Mapping[str, Any], trial_id: int | None, note: str) -> dict[str, Any]:
    """Return the study's system attributes to write for a note, as `optuna_dashboard.save_note`
    does; `there` are all that it has. Empty if the note that stands says the same, or is not ours.

    That module would take every worker a second to import, with all of the dashboard.
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
    only if it is still what it was `before`; None if it was not there.

    Raises:
        IntegrityError, _Overtaken: it is not.
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
    halving = study.pruner if isinstance(study.pruner, SuccessiveHalving) else None
    some, answer = progress.some, progress.answer
    rows = variants.rows(study, some.variants, some.epochs)
    return template("note.md").render(
        study=study,
        finished=sum(progress.counts[state] for state in FINISHED),
        complete=progress.counts[TrialState.COMPLETE],
        pruned=progress.counts[TrialState.PRUNED],
        failed=progress.counts[TrialState.FAIL],
        best=[] if progress.is_of_reruns else _best_rows(progress),
        is_of_reruns=progress.is_of_reruns,
        has_fresh=bool(answer.standings),
        unproven=answer.unproven and label(answer.unproven),
        told=[
            (label(trial), some.told[trial.number])
            for trial in some.trials
            if trial.number in some.told and trial.state == TrialState.COMPLETE
        ],
        caution=answer.text or study.caution,
        columns=variants.columns(study),
        variants=list(rows),
        compared=variants.caption(study),
        rungs=halving and ", ".join(map(str, halving.rungs(study.epochs - 1))),
        factor=halving and halving.factor,
        pruner=type(study.pruner).__name__,
        images=study.trained_on,
        ranges=[(name, spelled(study.ranges[name])) for name in FIELDS],
    )


def _best_rows(progress: Progress) -> list[Mapping[str, str]]:
    """Return the trials of the highest accuracies, the answer before them if it is none of them."""
    some, answer = progress.some, progress.answer
    best = some.ranked[:BEST]
    if answer.best is not None and answer.best not in best:
        best = [answer.best, *best[:-1]]
    return [
        {
            "label": label(trial),
            "accuracy": variants.fraction(some.score(trial)),
            "fresh": str(standing.honest) if standing else "",
            "choices": in_words(trial.params),
        }
        for trial in best
        for standing in (answer.standings.get(trial.number),)
    ]


def variant_text(study: Study, name: str, epochs: Sequence[Epoch], curves: str | None) -> str:
    """Return the note on a variant's trial, in Markdown, with the picture at `curves`."""
    ours = {e.number: e.test_accuracy for e in epochs if e.test_accuracy is not None}
    return template("variant.md").render(
        name=name,
        choices=study.variants[name],
        curves=curves,
        ours=_best(ours),
        published=_best(variants.published(study, name)),
        compared=variants.caption(study),
    )


def _best(accuracies: Mapping[int, float]) -> Mapping[str, float] | None:
    if not accuracies:
        return None
    epoch = max(accuracies, key=accuracies.__getitem__)
    return {"epoch": epoch, "accuracy": accuracies[epoch]}
