"""Speed and memory of training: `python -m tests.benchmarks.training`.

Each variant is trained by `search.vision.training` and, in turn with it, by the loop that a student
writes: a `DataLoader` with two workers, `ToTensor` and `Normalize` on PIL images, contiguous
tensors, a plain optimizer, `loss.item()` at each step. Both are processes of their own, of which
one waits while the other works. Printed are images per second, the ratio with its spread over the
rounds, and the share of this machine's own rate of float32 matrix products, which training in
bfloat16 can exceed.

The Adamax variants train for an epoch before they are measured: by then a sixth of fc1's weights
and of the optimizer's state are numbers too small to be normal, which `search.worker.device`
flushes to zero. How slow they are depends on the processor.

A round in which a batch of either side takes many times as long as its median batch is repeated:
another process had the core, or the student's loader began an epoch.
"""

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from search.study.training import Run
from search.vision.image_classification import Precision
from search.vision.images import load_dataset
from search.vision.optimizers import BLOCKED, fastest
from search.vision.precision import choose
from search.vision.session import Splits
from search.vision.training import ImageTraining
from search.worker import device
from studies.cifar import VARIANTS, Choices
from tests.benchmarks.student import BATCH, LOADERS, PilImages, optimizer_of
from tests.support.images import run_of, session_of
from tests.support.reference_network import Report

STALL = 4
"""A batch that takes this many times the median batch was disturbed."""
FLOPS_PER_IMAGE = 6 * (
    32**2 * 9 * (3 * 32 + 32 * 32) + 16**2 * 9 * (32 * 64 + 64 * 64) + 4096 * 512 + 512 * 10
)
"""Of the base network: a multiplication and an addition, forward and twice as many backward."""


def main() -> None:
    options = _options()
    splits = _splits(options.data, BATCH)  # fetches the images before anything is measured
    del splits
    rate = _matrix_product_flops(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, ours in {options.precision}, "
        f"{rate / 1e9:.0f} GFLOP/s in float32"
    )
    print(
        "variant        ours img/s  student's img/s  ratio: median, lowest to highest  of the rate"
    )
    stalled = 0
    for variant in options.variants:
        ours, students, ratios, repeated = _compare(variant, options)
        stalled += repeated
        print(
            f"{variant:14} {ours:10.0f} {students:16.0f}  {statistics.median(ratios):14.2f}, "
            f"{min(ratios):.2f} to {max(ratios):.2f} {ours * FLOPS_PER_IMAGE / rate:15.0%}",
            flush=True,
        )
    for name in BLOCKED:
        ours, theirs = _update_seconds(name, options)
        print(
            f"{name}: {1e3 * ours:.1f} ms for an update, {theirs / ours:.2f} times foreach's speed"
        )
    print(f"rounds repeated since a batch stalled: {stalled}")
    print(f"peak memory of a worker beyond importing torch: {_memory(options):.0f} MB")


def _compare(variant: str, options: argparse.Namespace) -> tuple[float, float, list[float], int]:
    """Return median images per second of both loops, their ratio in each round, and the number of
    rounds that were repeated."""
    context = multiprocessing.get_context("spawn")
    warm_up = options.warm_up if VARIANTS[variant].optimizer == "Adamax" else BATCH
    loops = []
    for loop in (_ours, _students):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, loop, variant, options, warm_up))
        process.start()
        here.recv()  # warm
        loops.append((process, here))
    rounds: list[list[float]] = []
    repeated = 0
    while len(rounds) < options.rounds:
        timed = []
        for _, connection in loops:
            connection.send(True)
            timed.append(connection.recv())
        if any(max(seconds) > STALL * statistics.median(seconds) for seconds in timed):
            repeated += 1
            assert repeated <= 10 * options.rounds, "the machine is too busy to measure"
            continue
        rounds.append([len(seconds) * BATCH / sum(seconds) for seconds in timed])
    for process, connection in loops:
        connection.send(False)
        process.join()
        assert process.exitcode == 0
    ours, students = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
    return ours, students, [mine / theirs for mine, theirs in rounds], repeated


def _serve(
    connection: Connection,
    loop: Callable[[Choices, argparse.Namespace, int], Iterator[list[float]]],
    variant: str,
    options: argparse.Namespace,
    warm_up: int,
) -> None:
    """Answer each request with the seconds of each of so many batches more."""
    torch.set_num_threads(options.threads)
    timed = loop(VARIANTS[variant], options, warm_up)
    next(timed)
    connection.send("warm")
    while connection.recv():
        connection.send(next(timed))


def _ours(choices: Choices, options: argparse.Namespace, warm_up: int) -> Iterator[list[float]]:
    device.prepare("cpu", options.threads)
    marks: list[float] = []

    def started(batches: int, run: Run[Choices]) -> ImageTraining:
        splits = _splits(options.data, batches * BATCH)
        return session_of(splits, batch_size=BATCH, precision=options.precision).start(run)

    warm = started(warm_up, run_of(choices, seed=0, epochs=1))
    list(warm.fit())
    run = run_of(
        choices,
        seed=0,
        epochs=10**9,
        after_batch=lambda batches: marks.append(time.perf_counter()),
    )
    measured = started(options.batches, run)
    measured.load_state_dict(warm.state_dict())
    yield []
    epochs = measured.fit()
    while True:
        marks.clear()
        start = time.perf_counter()
        next(epochs)
        yield [after - before for before, after in pairwise([start, *marks[: options.batches]])]


def _students(choices: Choices, options: argparse.Namespace, warm_up: int) -> Iterator[list[float]]:
    network = Report(choices)
    optimizer = optimizer_of(choices, network)
    criterion = nn.CrossEntropyLoss()
    running_loss = 0.0
    trained = 0
    marks = [0.0]
    loader = DataLoader(
        PilImages(_splits(options.data, None).train), BATCH, shuffle=True, num_workers=LOADERS
    )
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            trained += 1
            marks.append(time.perf_counter())
            if trained == warm_up or (
                trained > warm_up and (trained - warm_up) % options.batches == 0
            ):
                yield [after - before for before, after in pairwise(marks)]
                marks = [time.perf_counter()]


def _splits(root: Path, images: int | None) -> Splits:
    """Return the first `images` training images and one of testing."""
    dataset = load_dataset("cifar10", root)
    return Splits(
        train=dataset.train.between(0, images or len(dataset.train)),
        validation=None,
        test=dataset.test.between(0, 1),
        n_classes=10,
    )


def _matrix_product_flops(threads: int) -> float:
    """Return the best rate of a product of two 2048×2048 float32 matrices, in FLOP/s."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return float(2 * 2048**3 / min(times))


def _update_seconds(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the median seconds of an update of the network's weights, in blocks and by foreach."""
    torch.set_num_threads(options.threads)
    updates = []
    for make in (fastest, _foreach):
        torch.manual_seed(0)
        parameters = list(Report(VARIANTS["base"]).parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        updates.append(make(name, parameters, lr=1e-3, weight_decay=1e-4).step)
    times: list[list[float]] = [[], []]
    for _ in range(10 * options.rounds):
        for update, seconds in zip(updates, times, strict=True):
            start = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - start)
    ours, theirs = map(statistics.median, times)
    return ours, theirs


def _foreach(name: str, parameters: Sequence[torch.Tensor], **options: float) -> Optimizer:
    made: Optimizer = getattr(torch.optim, name)(parameters, foreach=True, **options)
    return made


def _memory(options: argparse.Namespace) -> float:
    """Return the peak of anonymous memory of a search over `import torch` alone, in MB.

    Mapped files, the images among them, are shared between processes and not counted.
    """
    alone = [sys.executable, "-c", "import torch, time; time.sleep(2)"]
    with tempfile.TemporaryDirectory() as folder:
        search = [
            *(sys.executable, "-m", "search.run", "--study", "cifar", "--epochs", "1"),
            *("--trials", "6", "--images", "3200", "--threads", str(options.threads)),
            "--no-confirm",
            *("--data", str(options.data.resolve())),
            *("--storage", f"sqlite:///{folder}/search.db", "--artifacts", folder),
        ]
        return _peak(search) - _peak(alone)


def _peak(command: list[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    assert process.returncode == 0
    return peak / 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data/")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision", choices=get_args(Precision), default=choose(torch.device("cpu"), None)
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--batches", type=int, default=60, help="in a round (default: 60)")
    parser.add_argument(
        "--warm-up", type=int, default=1580, help="batches before Adamax is measured (an epoch)"
    )
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
