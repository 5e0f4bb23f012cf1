"""What a command trains on: a device, and a study's images on it; and what is trained there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from search.files import temporary_folder
from search.study.choices import Choices
from search.study.dataset_spec import DatasetName
from search.study.study import Study
from search.vision.images import load_dataset
from search.vision.network import Network
from search.vision.training import Splits, Training, make_network
from search.worker import device
from search.worker.environment import Environment, environment


@dataclass(frozen=True, kw_only=True)
class Machine:
    device: torch.device
    splits: Splits
    data_digest: str
    environment: Environment

    @classmethod
    def of(
        cls,
        study: Study,
        *,
        device_name: str,
        threads: int | None,
        root: Path,
        say: Callable[[str], None],
    ) -> "Machine":
        """Set PyTorch up for the device, and bring the images there; fetch them if need be.

        Raises:
            UserError: there is no such device, or the images are not to be had or too few, or there
                is no folder for temporary files.
        """
        temporary_folder()  # PyTorch looks for it when it makes its first optimizer
        where = device.choose(device_name)
        device.prepare(where, threads)
        known = DatasetName.parse(study.dataset).n_train
        if known is not None:
            study.n_train(known)  # so that what does not fit is refused before any fetching
        dataset = load_dataset(study.dataset, root, say)
        total = len(dataset.train)
        splits = Splits.of(
            dataset,
            n_train=study.n_train(total),
            n_held_out=study.n_held_out(total),
            n_test=study.n_test(len(dataset.test)),
            device=where,
        )
        return cls(
            device=where,
            splits=splits,
            data_digest=dataset.digest,
            environment=environment(where, dataset.digest),
        )

    def training(
        self,
        study: Study,
        choices: Choices,
        *,
        seed: int,
        measure_train: bool,
        after_batch: Callable[[int], None],
        change: Callable[[Network], None] = lambda network: None,
    ) -> Training:
        """Return the training of `choices` as `study` has it, at its start.

        `change` may alter the network before the optimizer takes its parameters.
        """
        network = make_network(choices, self.splits, seed=seed, device=self.device)
        change(network)
        return Training(
            network,
            choices,
            self.splits,
            epochs=study.epochs,
            batch_size=study.batch_size,
            seed=seed,
            measure_train=measure_train,
            after_batch=after_batch,
        )

    def __str__(self) -> str:
        return device.describe(self.device)
