"""The precision of trainings on images: chosen by the device, and a part of a study."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.analysis.rerun_metrics import trained_as
from search.database.database import Database
from search.database.studies import join, stored_definition
from search.errors import UserError
from search.launch.launcher import Crew
from search.launch.supervisor import End, Fate, Place
from search.run import parser, search
from search.study.study import Study
from search.study.study_file import load
from search.vision import ImageClassification, precision
from search.vision.images import load_dataset
from search.vision.session import ImageSession, Splits
from search.worker.config import WorkerConfig
from search.worker.stop import Stop
from studies.cifar import VARIANTS
from tests.support.images import run_of, session_of
from tests.support.process import Process

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the processor says of itself; a test may change it."""
    found = {"model name": "Some CPU", "flags": "sse2 avx2"}
    monkeypatch.setattr(precision, "_processor", lambda: found)
    return found


def test_bfloat16_is_chosen_on_cuda_and_elsewhere_only_if_asked_for(
    processor: dict[str, str],
) -> None:
    assert precision.choose(CUDA, None) == "bfloat16"
    assert precision.choose(CUDA, "float32") == "float32"
    for flags in ("avx2", "avx2 amx_bf16 avx512_bf16"):
        processor["flags"] = flags
        assert precision.choose(CPU, None) == "float32"
        assert precision.choose(MPS, None) == "float32"


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_a_device_that_would_emulate_it_is_refused_by_name(
    flag: str, processor: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=r"--precision bfloat16: Some CPU has no such instructions"):
        precision.choose(CPU, "bfloat16")
    with pytest.raises(UserError, match=r"--precision bfloat16: the device mps has no such"):
        precision.choose(MPS, "bfloat16")
    processor["flags"] += f" {flag}"
    assert precision.choose(CPU, "bfloat16") == "bfloat16"
    processor.clear()  # another system than Linux
    with pytest.raises(UserError, match="this processor has no such instructions"):
        precision.choose(CPU, "bfloat16")


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="compares with it")
def test_the_processors_flags_are_read() -> None:
    flags = precision._processor()["flags"].split()  # noqa: SLF001
    assert flags
    for flag in precision.NATIVE:
        assert (flag in flags) == (flag in Path("/proc/cpuinfo").read_text().split())


def test_a_training_in_bfloat16_repeats_resumes_and_has_float32_weights() -> None:
    splits = Splits.of(load_dataset("digits", Path()), n_train=320, device=CPU)
    session, plain = session_of(splits, precision="bfloat16"), session_of(splits)
    run = run_of(VARIANTS["question-3"], epochs=2)
    whole, again = session.start(run), session.start(run)
    metrics = list(whole.fit())
    first = next(again.fit())
    resumed = session.start(run)
    resumed.load_state_dict(again.state_dict())
    assert [first, *resumed.fit(after=1)] == metrics
    in_float32 = list(plain.start(run).fit())
    assert metrics != in_float32
    for ours, theirs in zip(metrics, in_float32, strict=True):
        assert ours == pytest.approx(theirs, abs=0.1)
    weights = [value for value in whole.network.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32}


def test_a_study_is_joined_only_in_its_own_precision(database: Database, study: Study) -> None:
    join(database, study, data_digest="x", precision="bfloat16")
    with pytest.raises(
        UserError, match="precision is 'bfloat16' in the database and 'float32' here"
    ):
        join(database, study, data_digest="x", precision="float32")
    of_search = study.defined(stored_definition(database, study.name))
    assert of_search.trained_on.endswith(" in bfloat16")
    assert isinstance(of_search.trainer, ImageClassification)
    assert of_search.trainer.precision == "bfloat16"  # so a replay opens its session in it
    assert study.in_precision("float32").trained_on == study.trained_on


def test_a_search_is_resumed_in_its_own_precision_whatever_a_machine_would_choose(
    processor: dict[str, str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/search.db"
    with closing(Database(url)) as database:
        join(database, load("digits"), data_digest="x", precision="bfloat16")
    arguments = ["--study", "digits", "--storage", url, "--artifacts", str(tmp_path), "--precision"]
    with pytest.raises(UserError, match="--precision bfloat16: Some CPU has no such instructions"):
        search(parser().parse_args([*arguments, "auto"]), load("digits"))
    with pytest.raises(UserError, match="'bfloat16' in the database and 'float32' here"):
        search(parser().parse_args([*arguments, "float32"]), load("digits"))


def test_a_worker_says_the_precision_that_its_machine_has_chosen(
    study: Study, tmp_path: Path
) -> None:
    with closing(Process(f"sqlite:///{tmp_path}/search.db", study, tmp_path)) as process:
        assert process.worker.study.trained_on == study.trained_on
        session = process.machine.session
        assert isinstance(session, ImageSession)
        other = replace(process.machine, session=replace(session, precision="bfloat16"))
    url = f"sqlite:///{tmp_path}/other.db"
    with closing(Process(url, study, tmp_path, machine=other)) as process:
        assert process.worker.study.trained_on == f"{study.trained_on} in bfloat16"


def test_workers_elsewhere_get_the_precision_of_the_study(study: Study, tmp_path: Path) -> None:
    started: list[WorkerConfig] = []

    class Ended:
        def __init__(self, config: WorkerConfig) -> None:
            started.append(config)

        def told(self) -> list[str]:
            return []

        def end(self) -> End:
            return End(fate=Fate.DONE)

        def ask_to_stop(self) -> None:
            pass

    crew = Crew(device="cpu", threads=1, places=[Place(device="cuda:0", threads=1)], start=Ended)
    with closing(Process(f"sqlite:///{tmp_path}/search.db", study, tmp_path)) as process:
        crew.work(process.worker, Stop(), budget=study.budget, say=print)
    assert [config.changes["precision"] for config in started] == ["float32"]


def test_reruns_in_another_precision_are_told_apart(tmp_path: Path) -> None:
    cifar, runs = load("cifar"), Path(__file__).parents[2] / "studies" / "cifar" / "runs.csv"
    in_bfloat16 = tmp_path / "bfloat16.csv"
    in_bfloat16.write_text(
        runs.read_text().replace('""epochs""', '""precision"": ""bfloat16"", ""epochs""')
    )
    assert trained_as([in_bfloat16], cifar).trained_on == "all 50000 images in bfloat16"
    assert trained_as([runs], cifar).trained_on == "all 50000 images"
    with pytest.raises(UserError, match=r"were trained differently: precision .*bfloat16"):
        trained_as([runs, in_bfloat16], cifar)


def test_another_precision_is_refused(study: Study) -> None:
    with pytest.raises(UserError, match="precision must be float32 or bfloat16, not 'float16'"):
        study.changed({"precision": "float16"})
    assert load("cifar").changed({"precision": "bfloat16"}).trained_on.endswith(" in bfloat16")
