"""The command, as a user types it."""

from pathlib import Path

from studies.cifar import batchnorm
from tests.support.commands import Command

COMMAND = "studies.cifar.batchnorm"


def test_the_command_trains_what_its_file_lacks(search: Command, tmp_path: Path) -> None:
    options = ("--study", "digits", "--variant", "question-1", "--threads", 1, "--epochs", 1)
    first = search(COMMAND, *options, "--images", 160, "--repeats", 1, "--first-repeat", 1)
    assert first.returncode == 0, first.stderr
    written = (tmp_path / "probes.csv").read_text()
    both = search(COMMAND, *options, "--images", 160, "--repeats", 2)
    assert both.returncode == 0, both.stderr
    assert "repeat 0] EPOCH: 1" in both.stdout
    assert "repeat 1] EPOCH: 1" not in both.stdout
    assert (tmp_path / "probes.csv").read_text().startswith(written)
    shown = search(COMMAND, "--study", "digits", "--show", "probes.csv")
    assert shown.stdout in both.stdout
    for variant, fault in (("base", "it has no bn1"), ("x", "the study has no such variant")):
        refused = search(COMMAND, "--study", "digits", "--variant", variant)
        assert refused.returncode == 2
        assert f"--variant {variant}: {fault}; those with bn1: question-1" in refused.stderr


def test_figures_are_put_together_only_if_trained_alike(search: Command, tmp_path: Path) -> None:
    def probe(*options: object) -> str:
        done = search(
            COMMAND, "--study", "digits", "--variant", "question-1", "--threads", 1, *options
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    few = probe("--images", 64, "--epochs", 1, "--repeats", 1)
    assert "Trained on the first 64 images of digits" in few
    for differently in (("--images", 96), ("--epochs", 2), ("--seed", 5)):
        options = {"--images": 64, "--epochs": 1} | dict([differently])
        words = [word for pair in options.items() for word in pair]
        assert "repeat 0] EPOCH: 1" in probe(*words, "--repeats", 1)
    shown = search(COMMAND, "--study", "digits", "--show", "probes.csv", "--show", "probes.csv")
    rows = [line.split("|")[1:-1] for line in shown.stdout.splitlines() if "question-1 |" in line]
    assert [[cell.strip() for cell in row[2:5]] for row in rows] == [
        ["64", "1", "2"], ["96", "1", "1"], ["64", "2", "1"],
    ]  # fmt: skip
    refused = search(COMMAND, "--study", "cifar", "--show", "probes.csv")
    assert refused.returncode == 2
    assert "a run's dataset is digits, and the study's is cifar10" in refused.stderr


def test_a_file_that_does_not_name_its_images_is_left_alone(
    search: Command, tmp_path: Path
) -> None:
    lines = (Path(batchnorm.__file__).parent / "runs.csv").read_text().splitlines()
    earlier = "".join(f"{line.rsplit(',', 6)[0]}\n" for line in lines)
    (tmp_path / "probes.csv").write_text(earlier)
    for options in (("--variant", "question-1"), ("--show", "probes.csv")):
        refused = search(COMMAND, "--study", "digits", *options)
        assert refused.returncode == 2
        assert "probes.csv: not a file written by --out, or one of an earlier" in refused.stderr
    assert (tmp_path / "probes.csv").read_text() == earlier
