"""What the recordings of learning curves have in common."""

from dataclasses import dataclass

from optuna.pruners import NopPruner

from search.study import TPE, Study
from search.study.training import Place, Session
from search.vision import ImageClassification
from studies.cifar import Choices, build
from studies.cifar.choices import learning_rate


@dataclass(frozen=True, kw_only=True)
class Recorded(ImageClassification[Choices]):
    """Trains as for CIFAR-10, and records partial losses of the first epoch too."""

    def open(self, place: Place) -> Session[Choices]:
        from studies.curves.partial_losses import RecordedSession

        return RecordedSession.open(self, place)


def recording(
    name: str, *, dataset: str, images: int | None = None, at_random: int, near_the_best: int = 0
) -> Study[Choices]:
    """Return a study of so many random choices, and then of so many that TPE expects to be good.

    No trial is pruned. Besides the metrics of every epoch it records the mean training loss over
    the first eighth, quarter and half of the first epoch.
    """
    return Study(
        name=name,
        choices=Choices,
        train=Recorded(
            dataset=dataset,
            build=build,
            learning_rate=learning_rate,
            images=images,
            precision="float32",
        ),
        metric="test_accuracy",
        diverged_as=0.0,
        trials=at_random + near_the_best,
        epochs=10,
        sampler=TPE(startup_trials=at_random),
        pruner=NopPruner(),
    )
