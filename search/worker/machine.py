"""The device and the images of a study, loaded once per process; starts trainings on them."""

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
        """Set PyTorch up for the device, and load the images, downloading them if necessary.

        Raises:
            UserError: the device does not exist, the images are unavailable or too few, or there is
                no temporary folder.
        """
        temporary_folder()  # PyTorch looks for it when it makes its first optimizer
        where = device.choose(device_name)
        device.prepare(where, threads)
        known = DatasetName.parse(study.dataset).n_train
        if known is not None:
            study.n_train(known)  # refused before downloading
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
        """Return a new training of `choices` with the settings of `study`.

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
