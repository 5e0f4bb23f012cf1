"""One trial: its choices, its network, its epochs, and what becomes of it.

The only file where Optuna and PyTorch meet. A trial may have been begun by another process: what
that one recorded is kept, and training goes on after it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search import pruning
from search.checkpoints import Checkpoints
from search.choices import Choices
from search.claims import Claim
from search.epoch import Epoch
from search.storage import Database, LeaseLost
from search.study import REASON, Study, is_variant
from search.training import NonFiniteLoss, Splits, Training, make_network

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a worker needs to run any trial of a study."""

    study: Study
    joined: optuna.Study
    """The study in the database, with its sampler and pruner."""
    database: Database
    checkpoints: Checkpoints
    splits: Splits
    device: torch.device
    worker: str
    measure_train: bool = False
    """Measure train loss and accuracy for sampled trials too."""

    def run(self, claim: Claim, after_batch: Callable[[int], None]) -> TrialState:
        """Run the claimed trial to its end, tell Optuna, and return the state it ended in.

        `after_batch` is called after every batch; what it raises leaves the trial running in the
        database, to be taken over after its last recorded epoch.

        Raises:
            LeaseLost: another worker has the trial by now; nothing of it was changed.
        """
        trial = optuna.Trial(self.joined, claim.trial_id)
        choices = Choices.suggest(trial, self.study.ranges)
        recorded = self.database.epochs(claim.trial_id)
        seed = self.study.trial_seed(claim.number)
        training = Training(
            make_network(choices, self.splits, seed=seed, device=self.device),
            choices,
            self.splits,
            epochs=self.study.epochs,
            batch_size=self.study.batch_size,
            seed=seed,
            measure_train=self.measure_train or is_variant(self._frozen(claim)),
            after_batch=after_batch,
        )
        try:
            state = self._train(claim, trial, training, recorded)
        except UpdateFinishedTrialError as error:
            raise LeaseLost(f"trial {claim.number} was ended by another worker") from error
        self.checkpoints.keep_only(claim.number, None)
        return state

    def reason(self, claim: Claim) -> str:
        """Return in one line why the trial was pruned or failed; empty if it was not."""
        return str(self._frozen(claim).user_attrs.get(REASON, ""))

    def _train(
        self, claim: Claim, trial: optuna.Trial, training: Training, recorded: list[Epoch]
    ) -> TrialState:
        # A process killed between recording an epoch and acting on it has left that to us. The
        # earlier epochs were reported, or reporting them again changes nothing.
        last = None
        for last in recorded:
            if last.number not in self._frozen(claim).intermediate_values:
                trial.report(last.selection_accuracy, step=last.number)
        if last is not None and self._should_prune(trial, last):
            return self._prune(claim, trial)
        try:
            for epoch in training.fit(after=self._restore(claim, training, recorded)):
                if last is not None and epoch.number <= last.number:
                    continue  # trained again for want of a checkpoint, with the same figures
                self._record(claim, training, epoch)
                trial.report(epoch.selection_accuracy, step=epoch.number)
                last = epoch
                if self._should_prune(trial, epoch):
                    return self._prune(claim, trial)
        except NonFiniteLoss as error:
            trial.set_user_attr(REASON, str(error))
            return self._tell(claim, TrialState.PRUNED)
        except torch.OutOfMemoryError as error:
            trial.set_user_attr(REASON, str(error).splitlines()[0])
            return self._tell(claim, TrialState.FAIL)
        assert last is not None, "a study has one epoch at least"
        return self._tell(claim, TrialState.COMPLETE, last.selection_accuracy)

    def _should_prune(self, trial: optuna.Trial, epoch: Epoch) -> bool:
        """Ask the pruner; after the last epoch there is nothing left to save."""
        return epoch.number < self.study.epochs and trial.should_prune()

    def _restore(self, claim: Claim, training: Training, recorded: list[Epoch]) -> int:
        """Bring back the state after the last recorded epoch and return its number, else 0."""
        if not recorded:
            return 0
        number = recorded[-1].number
        if number == self.study.epochs:
            return number  # nothing is left to train
        sha256 = self.database.checkpoint_sha256(claim.trial_id, number)
        state = self.checkpoints.load(claim.number, number, sha256, self.device)
        if state is None:
            return 0
        training.load_state_dict(state)
        return number

    def _record(self, claim: Claim, training: Training, epoch: Epoch) -> None:
        sha256 = None
        if epoch.number < self.study.epochs:
            try:
                sha256 = self.checkpoints.save(claim.number, epoch.number, training.state_dict())
            except OSError as error:
                # A checkpoint only saves time: without it the trial would start again.
                log.warning("trial %d: no checkpoint written: %s", claim.number, error)
        self.database.record(claim.trial_id, self.worker, epoch, sha256)
        self.checkpoints.keep_only(claim.number, epoch.number)

    def _prune(self, claim: Claim, trial: optuna.Trial) -> TrialState:
        why = pruning.reason(self.study.pruner, self.joined, self._frozen(claim))
        trial.set_user_attr(REASON, why)
        return self._tell(claim, TrialState.PRUNED)

    def _tell(self, claim: Claim, state: TrialState, value: float | None = None) -> TrialState:
        if self._frozen(claim).state.is_finished():
            raise LeaseLost(f"trial {claim.number} was ended by another worker")
        self.joined.tell(claim.number, value, state=state)
        return state

    def _frozen(self, claim: Claim) -> optuna.trial.FrozenTrial:
        return self.database.optuna.get_trial(claim.trial_id)
