"""What a study says of itself in Optuna's dashboard: a note on the study, one on each variant.

Written when a trial ends, from a few queries whose cost hardly grows with the study.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.trial import FrozenTrial, TrialState

from search import roster, variants
from search.choices import FIELDS, in_words, spelled
from search.epoch import Epoch
from search.identity import study_ref
from search.pruning import SuccessiveHalving
from search.roster import StudyRef
from search.storage import Database
from search.store import Store
from search.study import Study
from search.trials import FINISHED, label, readable
from search.writing import template

BEST = 5
"""So many of the best trials are in the note, and in a search's last table."""
WRITTEN = "search:note:"
"""Begins the study's system attribute with the sums of a note's parts as they were written."""
NOTE_LENGTH = 2045
"""Characters of an attribute that is a part of a note."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A study at one moment, as far as its note tells of it."""

    counts: Counter[TrialState]
    best: Sequence[tuple[FrozenTrial, float]]
    """The completed ones with the accuracies that were recorded, the best first."""
    variants: Mapping[str, FrozenTrial]
    """By name; of several trials of one variant the last."""
    epochs: Mapping[int, Sequence[Epoch]]
    """Of the variants, by the trial's number."""

    @classmethod
    def of(cls, database: Database, study: Study, ref: StudyRef) -> "Progress":
        with database.engine.connect() as connection:
            counts = roster.counts(connection, ref)
            best = roster.best(connection, ref, epochs=study.epochs, n=BEST)
            fixed = roster.fixed(connection, ref)
        ids = {entry.name: entry.trial_id for entry in fixed}

        def find(trial_id: int) -> FrozenTrial:
            return readable(database.optuna.get_trial(trial_id))

        found = {name: find(ids[name]) for name in study.variants if name in ids}
        return cls(
            counts=counts,
            best=[(find(place.trial_id), place.accuracy) for place in best],
            variants=found,
            epochs=database.epochs_of_study(ref.key, [t.number for t in found.values()]),
        )


@dataclass(frozen=True, kw_only=True)
class Notes:
    """The notes of a study in the database."""

    database: Database
    study: Study
    joined: optuna.Study
    store: Store

    def update(self) -> None:
        """Bring the notes up to date, once whoever does the same has done it."""
        with self.database.lock(self._lock):
            self._write()

    def update_unless_busy(self) -> None:
        """Bring the notes up to date, unless another process does the same at this moment.

        That one may not know of what was told a moment ago: `update` has the last word.
        """
        with self.database.lock_if_free(self._lock) as held:
            if held:
                self._write()

    @property
    def _lock(self) -> str:
        return f"note/{study_ref(self.joined).key}"

    def _curves(self, trial: FrozenTrial) -> str | None:
        """Return where the dashboard has the picture of the trial's curves; None if it has none."""
        artifact_id = self.store.curves_id(trial.number)
        if ARTIFACTS_ATTR_PREFIX + artifact_id not in trial.system_attrs:
            return None
        return f"/artifacts/{self.joined._study_id}/{trial._trial_id}/{artifact_id}"

    def _write(self) -> None:
        storage, ref = self.database.optuna, study_ref(self.joined)
        study_id = ref.study_id
        progress = Progress.of(self.database, self.study, ref)
        notes: dict[int | None, str] = {None: text(self.study, progress)}
        for name, trial in progress.variants.items():
            epochs = progress.epochs.get(trial.number, ())
            notes[trial._trial_id] = variant_text(self.study, name, epochs, self._curves(trial))
        there = storage.get_study_system_attrs(study_id)
        for trial_id, now in notes.items():
            if not _is_ours(there, trial_id):
                continue
            for key, value in _attributes(there, trial_id, now).items():
                if there.get(key) != value:
                    storage.set_study_system_attr(study_id, key, value)


def _is_ours(there: Mapping[str, Any], trial_id: int | None) -> bool:
    """Return whether the note that stands, if any, is one that this service wrote, part by part; a
    user's own stays."""
    known = there.get(f"{WRITTEN}{trial_id}", ())
    prefix = f"{_prefix(trial_id)}note_str:"
    parts = [str(value) for key, value in there.items() if key.startswith(prefix)]
    return all(_sum(part) in known for part in parts if part)


def _prefix(trial_id: int | None) -> str:
    return "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"


def _sum(part: str) -> str:
    return hashlib.sha256(part.encode()).hexdigest()[:16]


def _attributes(there: Mapping[str, Any], trial_id: int | None, note: str) -> dict[str, Any]:
    """Return the study's system attributes that are a note, as `optuna_dashboard.save_note` writes
    them; `there` are those of the note that stands.

    That module would take every worker a second to import, with all of the dashboard.
    """
    prefix = _prefix(trial_id)
    parts = [note[at : at + NOTE_LENGTH] for at in range(0, len(note), NOTE_LENGTH)]
    before = sum(key.startswith(f"{prefix}note_str:") for key in there)
    parts += [""] * (before - len(parts))
    strings = {f"{prefix}note_str:{n}": part for n, part in enumerate(parts)}
    # First, and with the parts that stand: a process may be killed before it has written all.
    sums = {_sum(part) for key in strings for part in (strings[key], there.get(key)) if part}
    found: dict[str, Any] = {f"{WRITTEN}{trial_id}": sorted(sums), **strings}
    if any(there.get(key) != part for key, part in strings.items()):
        found[f"{prefix}note_ver"] = there.get(f"{prefix}note_ver", 0) + 1
    return found


def text(study: Study, progress: Progress) -> str:
    """Return the study's note in Markdown."""
    halving = study.pruner if isinstance(study.pruner, SuccessiveHalving) else None
    rows = variants.rows(study, progress.variants, progress.epochs)
    return template("note.md").render(
        study=study,
        finished=sum(progress.counts[state] for state in FINISHED),
        complete=progress.counts[TrialState.COMPLETE],
        pruned=progress.counts[TrialState.PRUNED],
        failed=progress.counts[TrialState.FAIL],
        best=[
            {
                "label": label(trial),
                "accuracy": variants.fraction(accuracy),
                "choices": in_words(trial.params),
            }
            for trial, accuracy in progress.best
        ],
        caution=study.caution,
        columns=variants.columns(study),
        variants=list(rows),
        compared=variants.caption(study),
        rungs=halving and ", ".join(map(str, halving.rungs(study.epochs - 1))),
        factor=halving and halving.factor,
        pruner=type(study.pruner).__name__,
        images=study.trained_on,
        ranges=[(name, spelled(study.ranges[name])) for name in FIELDS],
    )


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
