"""One trial: its choices, its network, its epochs, and what becomes of it.

The only file where Optuna and PyTorch meet. A trial may have been begun by another process: what
that one recorded is kept, and training goes on after it.
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.artifacts.retention import Kept
from search.database.database import Database, LeaseLost
from search.study.choices import Choices
from search.study.epoch import Epoch
from search.study.pruners import Cut, Sparing
from search.study.study import Study
from search.study.trial_attributes import (
    ENVIRONMENTS,
    MEASURED_TRAIN,
    VARIANT,
    measures_train,
    readable,
)
from search.vision.classifier import About, packed
from search.vision.training import NonFiniteLoss, Training
from search.worker import device
from search.worker.checkpoints import Checkpoints
from search.worker.claims import Claim, Claims
from search.worker.cpu import Share
from search.worker.result import Outcome
from search.worker.session import Machine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a worker needs to run any trial of a study."""

    study: Study
    joined: optuna.Study
    """The study in the database, with its sampler and pruner."""
    database: Database
    claims: Claims
    checkpoints: Checkpoints
    kept: Kept
    machine: Machine
    measure_train: bool = False
    """Measure train loss and accuracy for sampled trials too, if they begin here."""
    share: Share = field(default_factory=partial(Share, log.warning))

    def run(self, claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
        """Run the claimed trial to its end, and end it in the database.

        `after_batch` is called after every batch; what it raises leaves the trial running in the
        database, to be taken over after its last recorded epoch.

        Raises:
            LeaseLost: another worker has the trial by now; nothing of it was changed.
        """
        # Optuna keeps the list of trials for as long as it runs one, and cannot know of ours.
        self.joined._thread_local.cached_all_trials = None
        # Read here too, since Optuna's storage writes to no trial that it has not read: another
        # process may have enqueued this one.
        self.joined._get_trials(deepcopy=False, use_cache=True)
        try:
            outcome = self._outcome(claim, after_batch)
        except UpdateFinishedTrialError as error:
            raise LeaseLost(f"trial {claim.number} was ended by another worker") from error
        if epochs := self.claims.epochs(claim):
            seconds = fmean(epoch.seconds for epoch in epochs)
            outcome = replace(outcome, seconds_per_epoch=round(seconds, 3))
        self.kept.store.remove(self.claims.finish(claim, outcome, self.kept))
        return outcome

    def _outcome(self, claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
        try:
            return self._train(claim, after_batch)
        except NonFiniteLoss as error:
            return Outcome(state=TrialState.PRUNED, reason=str(error), diverged=error.epoch)
        except (RuntimeError, MemoryError) as error:
            if not device.is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or ["out of memory"])[0]
            trace = traceback.format_exc()
            return Outcome(state=TrialState.FAIL, reason=reason, traceback=trace)

    def _train(self, claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
        trial = optuna.Trial(self.joined, claim.trial_id)
        self._note_environment(trial)
        Choices.suggest(trial, self.study.ranges)
        recorded = self.claims.epochs(claim)
        if self.measure_train and not recorded:
            trial.set_user_attr(MEASURED_TRAIN, True)
        # As stored: of two workers that draw values for one trial, the first to write one has it.
        frozen = self._frozen(claim)
        for epoch in recorded:
            if epoch.number not in frozen.intermediate_values:  # a killed process did not report it
                trial.report(epoch.selection_accuracy, step=epoch.number)
        last = recorded[-1] if recorded else None
        if last is not None and (cut := self._cut(trial, last)) is not None:
            return _pruned(cut)
        training = self.machine.training(
            self.study,
            Choices(**frozen.params),
            seed=self.study.trial_seed(frozen),
            measure_train=measures_train(frozen),
            after_batch=after_batch,
        )
        epochs = training.fit(after=self._restore(claim, training, recorded))
        if self.machine.device.type == "cpu":
            epochs = self.share.watched(epochs)
        for epoch in epochs:
            if last is not None and epoch.number <= last.number:
                # Trained again for want of a checkpoint or the weights, with the same figures.
                if epoch.number == self.study.epochs:
                    self._save_weights(claim, training, epoch)
                continue
            self._record(claim, training, epoch)
            trial.report(epoch.selection_accuracy, step=epoch.number)
            last = epoch
            if (cut := self._cut(trial, epoch)) is not None:
                return _pruned(cut)
        assert last is not None, "a study has one epoch at least"
        return Outcome(
            state=TrialState.COMPLETE,
            value=last.selection_accuracy,
            weights_sha256=self._saved_weights(claim),
        )

    def _note_environment(self, trial: optuna.Trial) -> None:
        noted = readable(trial._get_latest_trial()).user_attrs.get(ENVIRONMENTS, [])
        now = self.machine.environment
        if noted[-1:] != [now]:
            trial.set_user_attr(ENVIRONMENTS, [*(then for then in noted if then != now), now])

    def _cut(self, trial: optuna.Trial, epoch: Epoch) -> Cut | None:
        """Ask the pruner as `trial.should_prune` does; after the last epoch nothing is saved."""
        if epoch.number == self.study.epochs:
            return None
        pruner = self.joined.pruner
        assert isinstance(pruner, Sparing), "the one that the study was joined with"
        return pruner.cut(self.joined, trial._get_latest_trial())

    def _restore(self, claim: Claim, training: Training, recorded: list[Epoch]) -> int:
        """Bring back the state after the last recorded epoch and return its number, else 0."""
        if not recorded:
            return 0
        number = recorded[-1].number
        sha256 = self.claims.checkpoint_sha256(claim, number)
        if number == self.study.epochs:
            # Nothing is left to train, unless the weights are wanted and lost.
            lost = sha256 is not None and self.kept.store.read(claim.number, sha256) is None
            accuracy = recorded[-1].selection_accuracy
            return 0 if lost and self.kept.wants(claim.trial_id, accuracy) else number
        if sha256 is None:
            return 0
        state = self.checkpoints.load(claim.number, number, sha256, self.machine.device)
        if state is None:
            return 0
        training.load_state_dict(state)
        return number

    def _record(self, claim: Claim, training: Training, epoch: Epoch) -> None:
        is_last = epoch.number == self.study.epochs
        save = self._save_weights if is_last else self._save_checkpoint
        sha256 = save(claim, training, epoch)
        # Weights are listed when the trial ends.
        listed = self.kept.listed(
            claim.trial_id, claim.number, None if is_last else sha256, epoch.number
        )
        self.kept.store.remove(self.claims.record(claim, epoch, sha256, listed))

    def _save_checkpoint(self, claim: Claim, training: Training, epoch: Epoch) -> str | None:
        try:
            return self.checkpoints.save(claim.number, epoch.number, training.state_dict())
        except OSError as error:
            # A checkpoint only saves time: without it the trial would start again.
            log.warning("trial %d: no checkpoint written: %s", claim.number, error)
            return None

    def _save_weights(self, claim: Claim, training: Training, epoch: Epoch) -> str | None:
        """Write the final weights if they are to be kept; return their SHA-256, else None."""
        if not self.kept.wants(claim.trial_id, epoch.selection_accuracy):
            return None
        content = packed(training.network, self._about(claim, epoch))
        try:
            return self.kept.store.write(claim.number, content)
        except OSError as error:
            log.warning("trial %d: its weights are not kept: %s", claim.number, error)
            return None

    def _saved_weights(self, claim: Claim) -> str | None:
        """Return the SHA-256 of the weights that were written at the last epoch; None if none were,
        or if they are not here.

        Weights of another sum are of another training, which the recorded figures are not of.
        """
        sha256 = self.claims.checkpoint_sha256(claim, self.study.epochs)
        if sha256 is None or self.kept.store.read(claim.number, sha256) is not None:
            return sha256
        log.warning("trial %d: its weights are not kept: they are lost", claim.number)
        return None

    def _about(self, claim: Claim, epoch: Epoch) -> About:
        trial = self._frozen(claim)
        splits = self.machine.splits
        return About(
            study=self.study.name,
            trial=claim.number,
            variant=trial.user_attrs.get(VARIANT),
            choices=Choices(**trial.params),
            channels=splits.train.channels,
            size=splits.train.size,
            n_classes=splits.n_classes,
            classes=splits.classes,
            whites=splits.whites,
            test_accuracy=epoch.test_accuracy,
            validation_accuracy=epoch.validation_accuracy,
        )

    def _frozen(self, claim: Claim) -> optuna.trial.FrozenTrial:
        return readable(self.database.optuna.get_trial(claim.trial_id))


def _pruned(cut: Cut) -> Outcome:
    return Outcome(state=TrialState.PRUNED, reason=str(cut), rung=cut.epoch, cutoff=cut.cutoff)
