"""The metrics of one epoch of a trial, as yielded by training and stored in the database."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Metrics of an epoch: accuracies from 0 to 1, and mean cross-entropies in nats.

    All but `batch_loss` are measured in eval mode after the epoch, over the whole split. A metric
    that was not requested is None.
    """

    number: int
    """1-based."""
    batch_loss: float
    """Mean training loss during the epoch, in train mode, while the weights change."""
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    seconds: float
    """Wall time of the epoch, evaluation included."""

    @property
    def selection_accuracy(self) -> float:
        """The accuracy for pruning and ranking: validation if it was measured, otherwise test."""
        accuracy = self.test_accuracy
        if self.validation_accuracy is not None:
            accuracy = self.validation_accuracy
        assert accuracy is not None, "an epoch is measured on at least one split"
        return accuracy

    def __str__(self) -> str:
        """The metrics in the format of the course report."""
        train = f"batch_loss: {self.batch_loss:.5f}"
        if self.train_loss is not None:
            train = f"train_loss: {self.train_loss:.5f} train_acc: {self.train_accuracy:.5f}"
        held_out = ""
        if self.validation_loss is not None:
            held_out = (
                f" validation_loss: {self.validation_loss:.5f}"
                f" validation_acc {self.validation_accuracy:.5f}"
            )
        test = ""
        if self.test_loss is not None:
            test = f" test_loss: {self.test_loss:.5f} test_acc {self.test_accuracy:.5f}"
        return f"EPOCH: {self.number} {train}{held_out}{test}"
