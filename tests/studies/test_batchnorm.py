"""The command, as a user types it."""

from pathlib import Path

from tests.conftest import Command

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
        assert f"--variant {variant}: {fault}; known with one: question-1" in refused.stderr
