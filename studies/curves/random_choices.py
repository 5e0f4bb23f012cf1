"""Learning curves of random choices of the course's network, on 4,000 images of CIFAR-10.

    python -m search.run --study studies/curves/random_choices.py --workers auto

The recording so far is `recording.db`, which resumes:

    cp studies/curves/recording.db search.db

No trial is pruned; it resumes like any search. Besides the metrics of every epoch it records the
mean training loss over the first eighth, quarter and half of the first epoch, to see how early a
poor trial shows.
"""

from dataclasses import dataclass

from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler

from search.study import Study
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


study = Study(
    name="curves",
    choices=Choices,
    train=Recorded(
        dataset="cifar10",
        build=build,
        learning_rate=learning_rate,
        images=4000,
        precision="float32",
    ),
    metric="test_accuracy",
    diverged_as=0.0,
    trials=200,
    epochs=10,
    sampler=RandomSampler,
    pruner=NopPruner(),
)
