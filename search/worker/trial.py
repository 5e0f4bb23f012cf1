"""One trial, from its choices to its end: the only file where Optuna and a training meet.

Another process may have begun the trial. What that process recorded is kept, and the training
resumes after it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.database.leases import Claim, LeaseLost
from search.database.optuna_internals import FIXED_PARAMS, open_trial, reported
from search.study.metrics import Epoch
from search.study.trial_attributes import (
    ENVIRONMENT,
    MEASURED_TRAIN,
    environments,
    is_fixed,
    measures_train,
    readable,
)
from search.worker.guarded_training import Diverged, TrainingError
from search.worker.result import Outcome

if TYPE_CHECKING:
    from search.worker.worker import Worker


def run_trial(worker: "Worker", claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
    """Run the claimed trial to its end, and end it in the database.

    `after_batch` is called after every batch. What it raises leaves the trial running in the
    database, to be taken over after its last recorded epoch.

    Raises:
        LeaseLost: another worker has the trial; nothing of it was changed.
    """
    try:
        outcome = _outcome(worker, claim, after_batch)
    except UpdateFinishedTrialError as error:
        raise LeaseLost(f"trial {claim.number} was ended by another worker") from error
    return worker.finish(claim, outcome)


def _outcome(worker: "Worker", claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
    try:
        return _trained(worker, claim, after_batch)
    except Diverged as error:
        return Outcome(state=TrialState.PRUNED, reason=str(error), diverged=error.epoch)
    except TrainingError as error:
        return Outcome(state=TrialState.FAIL, reason=str(error), traceback=error.traceback)


def _trained(worker: "Worker", claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
    study, objective = worker.study, worker.study.objective
    trial = open_trial(worker.joined, claim.trial_id)
    recorded = worker.database.epochs(claim.study_key, claim.number)
    _note_environment(worker, claim, trial, is_new=not recorded)
    if not recorded:  # otherwise it has its choices, perhaps of ranges that have changed since
        enqueued = readable(reported(trial))
        given = enqueued.system_attrs.get(FIXED_PARAMS, {}) if is_fixed(enqueued) else {}
        study.space.suggest(trial, given)
    # As stored: if two workers drew values for the trial, the first to write one decided it.
    stored = readable(worker.database.optuna.get_trial(claim.trial_id))
    for epoch in recorded:
        if epoch.number not in stored.intermediate_values:  # a killed worker did not report it
            trial.report(objective.value(epoch), step=epoch.number)
    last = recorded[-1] if recorded else None
    if last is not None and (ended := _ended(worker, claim, trial, last)):
        return ended
    training = worker.machine.training(
        study,
        study.space.of(stored.params),
        seed=study.trial_seed(stored),
        is_detailed=measures_train(stored),
        after_batch=after_batch,
    )
    files = worker.trial_files(claim, stored)
    for epoch in worker.watched(training.epochs(after=files.restore(training, recorded))):
        is_last = epoch.number == study.epochs
        if last is not None and epoch.number <= last.number:
            # Trained again, with the same metrics, since a file is lost.
            if is_last:
                files.save(training, epoch)
            continue
        worker.record(claim, epoch, files.save(training, epoch))
        trial.report(objective.value(epoch), step=epoch.number)
        worker.callbacks.after_epoch(stored, epoch)
        last = epoch
        if ended := _ended(worker, claim, trial, epoch):
            return ended
    assert last is not None, "a study has one epoch at least"
    return Outcome(
        state=TrialState.COMPLETE,
        value=objective.value(last),
        weights_sha256=files.weights_sha256(),
    )


def _note_environment(worker: "Worker", claim: Claim, trial: optuna.Trial, *, is_new: bool) -> None:
    """Store where the trial is trained, and for a new one what is measured of it."""
    noted = environments(reported(trial))
    now = worker.machine.environment
    if noted[-1:] != [now]:
        every = [*(then for then in noted if then != now), now]
        shown = {name: now.get(name) for name in ENVIRONMENT}
        worker.database.note_environments(claim, every, shown)
    if worker.config.measure_train and is_new:
        trial.set_user_attr(MEASURED_TRAIN, True)


def _ended(worker: "Worker", claim: Claim, trial: optuna.Trial, epoch: Epoch) -> Outcome | None:
    """Return how the trial ends after `epoch`, before its last one; None if it goes on.

    The pruner is asked as `trial.should_prune` does; after the last epoch pruning saves nothing.
    """
    if epoch.number == worker.study.epochs:
        return None
    if cut := worker.pruner.cut(worker.joined, reported(trial)):
        return Outcome.pruned(cut.of(epoch.metrics, worker.study.metric))
    return Outcome.cut_short(epoch.number) if epoch.number >= claim.until else None
