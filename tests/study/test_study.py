import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

import studies
from search.errors import UserError
from search.study.confirmation import Confirmation
from search.study.definition import differences
from search.study.pruners import Promotion
from search.study.shipped import known
from search.study.study import Study
from search.study.study_file import load
from search.study.training import FunctionTrainer
from search.vision import ImageClassification


def test_the_shipped_studies_are_found_by_name() -> None:
    assert known() == ["cifar", "digits"]
    cifar = load("cifar")
    assert (cifar.dataset, cifar.epochs_budget, cifar.epochs) == ("cifar10", 400, 10)
    assert (cifar.trials, cifar.confirm) == (None, Confirmation())
    assert _trainer(cifar).batch_size == 32
    assert (cifar.metric, cifar.direction, cifar.diverged_as) == ("test_accuracy", "maximize", 0.0)
    assert load("digits").dataset == "digits"


def _trainer(study: Study) -> ImageClassification:
    assert isinstance(study.trainer, ImageClassification)
    return study.trainer


def _changed(study: Study, changes: Mapping[str, object]) -> Study:
    """Change fields of the study or its trainer, and select the metric's split by `select`."""
    changed = study.changed({name: to for name, to in changes.items() if name != "select"})
    return changed.select(str(changes["select"])) if "select" in changes else changed


def test_the_six_variants_are_those_of_the_report() -> None:
    rows = {
        name: (c.bn1, c.extra_fc, c.bn2, c.conv_bias and c.fc_bias, c.optimizer, c.lr,
               c.weight_decay, c.schedule)
        for name, c in load("cifar").variants.items()
    }  # fmt: skip
    assert rows == {
        "base": ("off", False, "off", True, "SGD", 0.01, 0.0, "constant"),
        "question-1": ("plain", False, "off", True, "SGD", 0.01, 0.0, "constant"),
        "question-2": ("plain", True, "off", True, "SGD", 0.01, 0.0, "constant"),
        "question-3": ("plain", True, "off", True, "Adamax", 0.001, 1e-4, "constant"),
        "question-4.1": ("plain", True, "off", True, "Adamax", 0.001, 1e-5, "constant"),
        "question-4.2": ("plain", True, "affine", True, "Adamax", 0.001, 1e-5, "constant"),
    }
    assert list(rows) == list(load("digits").variants)


@pytest.mark.parametrize(
    ("change", "n_train", "n_held_out", "n_test"),
    [
        ({}, 1438, 0, 359),
        ({"images": 64}, 64, 0, 64),
        ({"images": 1024}, 1024, 0, 359),
        ({"select": "validation"}, 1295, 143, 359),
        ({"select": "validation", "images": 64}, 64, 64, 64),
        ({"select": "validation", "images": 160}, 160, 143, 160),
    ],
)
def test_no_more_images_are_held_out_or_tested_on_than_are_trained_on(
    change: dict[str, object], n_train: int, n_held_out: int, n_test: int
) -> None:
    study = _changed(load("digits"), change)
    trainer, metric = _trainer(study), study.metric
    found = trainer.n_train(1438, metric), trainer.n_held_out(1438, metric), trainer.n_test(359)
    assert found == (n_train, n_held_out, n_test)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": 2000}, "--images 2000: there are 1438 training images"),
        ({"images": 1300, "select": "validation"}, "there are 1295 training images"),
        ({"images": 33}, r"33 images in batches of 32 .*; give --images 32"),
    ],
)
def test_images_that_are_not_there_or_leave_a_single_one_are_refused(
    change: dict[str, object], complaint: str
) -> None:
    study = _changed(load("digits"), change)
    with pytest.raises(UserError, match=complaint):
        _trainer(study).n_train(1438, study.metric)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a\nb", "é" * 51])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a study's name"):
        dataclasses.replace(load("digits"), name=name)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "variant,epoch,test_accuracy\n",
        "name,value\nbase,1\n",
        "variant,test_accuracy\nbase,0.5\n",
        "variant,epoch,test_accuracy\nbase,one,0.5\n",
        "variant,epoch,test_accuracy\nbase,1,high\n",
        "variant,epoch,test_accuracy\nbase,1\n",
        "variant,epoch,test_accuracy\nbase,1,0.5,0.6\n",
    ],
)
def test_published_figures_that_cannot_be_read_are_refused_at_once(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "figures.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"published: .*figures.csv is not a CSV file with"):
        dataclasses.replace(load("digits"), published=path)


def test_the_reports_best_accuracies_are_kept() -> None:
    published = load("cifar").published_figures
    best: dict[str, float] = {}
    for (variant, _), figures in published.items():
        best[variant] = max(best.get(variant, 0.0), figures["test_accuracy"])
    assert len(published) == 59
    assert best == {
        "base": 0.7494,
        "question-1": 0.7625,
        "question-2": 0.7768,
        "question-3": 0.7766,
        "question-4.1": 0.7642,
        "question-4.2": 0.7757,
    }
    with (Path(studies.__path__[0]) / "cifar" / "published.csv").open() as lines:
        assert {row["variant"] for row in csv.DictReader(lines)} == set(best)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"images": 50_000}, None),
        ({"epochs": 2, "seed": 7}, None),
        ({"images": 500}, "trained on the first 500 of 50000 images"),
        (
            {"select": "validation"},
            "trained on all 50000 images but the last tenth, held out for validation",
        ),
        ({"images": 500, "select": "validation"}, "trained on the first 500 of 50000 images"),
        ({"dataset": "digits"}, "trained on digits and not cifar10"),
        (
            {"dataset": "folder:mine", "images": 9},
            "trained on folder:mine and not cifar10; on the first 9 images",
        ),
        ({"images": 500, "published": None}, None),
    ],
)
def test_published_figures_compare_with_trials_on_all_images(
    changes: dict[str, Any], reason: str | None
) -> None:
    assert _changed(load("cifar"), changes).incomparable == reason


def test_published_figures_that_name_no_dataset_are_of_the_studys(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    columns = "variant,epoch,train_loss,train_accuracy,test_loss,test_accuracy"
    path.write_text(f"{columns}\nbase,1,1,0.5,1,0.5\n")
    own = dataclasses.replace(load("digits"), published=path)
    assert own.incomparable is None
    path.write_text(f"{columns},dataset\nbase,1,1,0.5,1,0.5,digits\nbase,2,1,0.5,1,0.5,cifar10\n")
    with pytest.raises(UserError, match="published: "):
        dataclasses.replace(own, published=path)


def test_a_study_of_another_dataset_is_not_taken_for_this_one() -> None:
    definition = load("cifar").definition("digest")
    assert _trainer(load("cifar").defined({**definition, "images": 500})).images == 500
    with pytest.raises(UserError, match="dataset is 'cifar10' in the database and 'digits' here"):
        load("digits").defined(definition)


@pytest.mark.slow
def test_a_study_is_loaded_from_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "flowers.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from studies.cifar import course_study\n"
        "@dataclass\n"
        "class Sizes:\n"
        "    trials: int = 3\n"
        "study = course_study('flowers', dataset='digits', trials=Sizes().trials)"
    )
    assert load(str(path)).name == "flowers"
    assert "flowers" not in sys.modules


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run Python with these words in a folder of its own, without `python -m pytest`'s path."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("own", ["studies/__init__.py", "studies/other.txt", "studies.py"])
def test_a_project_with_studies_of_its_own_has_the_shipped_ones_too(
    own: str, tmp_path: Path, python: Callable[..., str]
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / own).write_text("raise RuntimeError('theirs is not to be run')\n")
    (tmp_path / "studies" / "common.py").write_text("TRIALS = 7\n")
    is_package = own == "studies/__init__.py"
    theirs = "from studies.common import TRIALS\n" if is_package else "TRIALS = 7\n"
    (tmp_path / "mine.py").write_text(
        f"{theirs}from studies.cifar import VARIANTS, course_study\n"
        "study = course_study('mine', dataset='digits', variants=VARIANTS, trials=TRIALS)\n"
    )
    code = (
        "import search.study as s; from search.study.shipped import known;"
        " print(s.load('cifar').name, s.load('digits').name, known(),"
        " s.load('mine.py').trials, len(s.load('mine.py').variants))"
    )
    assert python("-c", code) == "cifar digits ['cifar', 'digits'] 7 6\n"


def test_a_package_studies_that_is_imported_already_keeps_what_it_has(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    (tmp_path / "studies.py").write_text("THEIRS = 3\n")
    code = "import studies, search.study as s; print(s.load('digits').name, studies.THEIRS)"
    assert python("-c", code) == "digits 3\n"


HIDING = ("argparse", "helpers", "json", "optuna", "random", "sqlalchemy", "studies", "torch")


@pytest.mark.slow
def test_files_of_the_current_folder_hide_no_module_from_a_command(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} is hidden')\n")
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "helpers.py").touch()
    (tmp_path / "my" / "mine.py").write_text("import helpers\nfrom studies.digits import study\n")
    options = ("--images", "64", "--epochs", "1", "--trials", "2", "--no-variants")
    run = (
        "-m",
        "search.run",
        "--study",
        "my/mine.py",
        "--device",
        "cpu",
        "--workers",
        "2",
        *options,
    )
    assert "Trials: 2 of 2 finished" in python(*run)


@pytest.mark.slow
def test_a_study_file_imports_the_files_beside_it_wherever_it_is_run_from(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    folder = tmp_path / "my studies é"
    folder.mkdir()
    for name in ("random", "torch", "search", "optuna"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} is hidden')\n")
    (folder / "helpers.py").write_text("TRIALS = 5\n")
    (folder / "mine.py").write_text(
        "import random\nfrom dataclasses import replace\n"
        "from helpers import TRIALS\nfrom studies.digits import study\n"
        "print('a word')\nstudy = replace(study, trials=TRIALS)\n"
    )
    (tmp_path / "link.py").symlink_to(folder / "mine.py")
    for path in (f"{folder.name}/mine.py", str(folder / "mine.py"), "link.py"):
        code = (
            f"import search.study as s; print(s.load({path!r}).trials); "
            "from importlib.util import find_spec; print(find_spec('torch').origin)"
        )
        trials, torch = python("-c", code).splitlines()
        assert trials == "5"
        assert folder not in Path(torch).parents


def test_a_study_file_is_read_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    text = "from dataclasses import replace\nfrom studies.digits import study\n"
    for trials in (3, 4):
        path.write_text(f"{text}study = replace(study, trials={trials})\n")
        os.utime(path, (1e9, 1e9))
        assert load(str(path)).trials == trials


def test_a_file_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown study; known: cifar, digits"):
        load("cifra")
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "absent.py"))
    path = tmp_path / "empty.py"
    path.write_text("study = ")
    with pytest.raises(UserError, match=r"empty.py: SyntaxError: invalid syntax"):
        load(str(path))
    path.write_text("from .helpers import study")
    with pytest.raises(UserError, match="`from helpers import x` for a file next to it"):
        load(str(path))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match=r"folder.py: there is no such file"):
        load(str(tmp_path / "folder.py"))
    path.write_text("study = 3")
    with pytest.raises(UserError, match="does not define a `study`"):
        load(str(path))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            "course_study('x', dataset='digits', trails=3)",
            r"line 3: TypeError: .* argument 'trails'",
        ),
        (
            "course_study('x', dataset='roses')",
            "line 3: unknown dataset 'roses'; known: cifar10, di",
        ),
        ("course_study('x', dataset='digits:5')", "line 3: unknown dataset"),
        ("course_study('x', dataset='folder:')", "give a path after the colon, as in folder:flow"),
        ("course_study('x', dataset='folder:f?size=30')", "a multiple of 4 from 8 to 256 .* '30'"),
        ("course_study('x', dataset='folder:f?size=260')", "a multiple of 4 from 8 to 256"),
        ("course_study('x', dataset='folder:f?size=' + '8' * 5000)", "a multiple of 4 from 8 to 2"),
        ("course_study('x', dataset='torchvision:Kinetics')", "supports CIFAR100, Country211"),
        ("exit(4)", "line 3: SystemExit: 4"),
        ("1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("exec('raise ValueError(\"one\\\\ntwo\")')", "line 3: ValueError: one two$"),
    ],
)
def test_an_error_in_a_study_file_is_named_with_its_line(
    tmp_path: Path, call: str, complaint: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from studies.cifar import course_study\n\nstudy = {call}\n")
    with pytest.raises(UserError, match=rf"mine.py, .*{complaint}") as error:
        load(str(path))
    assert "\n" not in str(error.value)


def test_a_validation_set_of_no_image_is_refused(study: Study) -> None:
    few = study.changed({"images": None}).select("validation")
    trainer, metric = _trainer(few), few.metric
    with pytest.raises(UserError, match="a tenth of 9 training images is less than one"):
        trainer.n_train(9, metric)
    assert (trainer.n_train(10, metric), trainer.n_held_out(10, metric)) == (9, 1)


METRICS = "test_accuracy, test_loss, validation_accuracy, validation_loss, train_acc"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"batch_size": 1}, "batch_size must be a whole number of at least 2, not 1"),
        ({"trials": 2.5}, "trials must be a whole number of at least 1, not 2.5"),
        ({"epochs_budget": 0}, "epochs_budget must be a whole number of at least 1, not 0"),
        ({"epochs": 2**31}, "epochs must be at most 2147483647, not 2147483648"),
        ({"images": True}, "images must be a whole number of at least 2, not True"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"select": "valid"}, f"metric must be one of {METRICS}.*, not 'valid_accuracy'"),
        ({"metric": "accuracy"}, f"metric must be one of {METRICS}.*, not 'accuracy'"),
        ({"metric": None}, "^metric must be the name of a metric, not None"),
        ({"metric": ""}, "^metric must be the name of a metric, not ''"),
        (
            {"metric": "test_loss"},
            'metric test_loss is better .* give direction="minimize"',
        ),
        ({"final_metric": "test_loss"}, "metric test_loss is better if it is lower"),
        ({"final_metric": "auc"}, f"^final_metric must be one of {METRICS}.*, not 'auc'"),
        (
            {"pruner": Promotion(first_loss="loss")},
            f"^pruner: first_loss must be one of {METRICS}.*, not 'loss'",
        ),
        ({"final_metric": 1}, "^final_metric must be the name of a metric, not 1"),
        ({"direction": "max"}, "direction must be maximize or minimize, not 'max'"),
        ({"train": "digits"}, "train must be a Trainer or a function .*, not 'digits'"),
        ({"choices": int}, "choices: int must be a frozen dataclass"),
        ({"ranges": {"dropout": FloatDistribution(0, 1)}}, "ranges: 'dropout' is unknown; known: "),
        ({"build": None}, "build must be a function, not None"),
        ({"learning_rate": 0.1}, "learning_rate must be a function, not 0.1"),
        ({"image": 5}, "--image: the training of the study small has no such setting"),
    ],
)
def test_a_study_refuses_nonsense(study: Study, change: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        _changed(study, change)


def test_a_metric_that_is_not_of_a_split_has_no_other_to_select() -> None:
    linear = load(str(Path(__file__).parents[2] / "studies" / "examples" / "linear.py"))
    own = dataclasses.replace(linear, metric="auc", direction="maximize")
    with pytest.raises(UserError, match=r"^--select test: auc does not name the split it is of$"):
        own.select("test")


def test_selection_on_another_split_leaves_what_re_runs_compare(study: Study) -> None:
    assert study.select("test") is study
    held_out = study.select("validation")
    assert (held_out.metric, held_out.final.metric) == ("validation_accuracy", "test_accuracy")
    back = held_out.select("test")
    assert (back.metric, back.final.metric) == ("test_accuracy", "test_accuracy")
    assert (study.final.diverged_as, held_out.final.diverged_as) == (0.0, 0.0)


def test_a_change_reaches_the_study_and_its_trainer(study: Study) -> None:
    changed = study.changed({"epochs": 2, "images": 64})
    assert (changed.epochs, _trainer(changed).images) == (2, 64)
    assert (study.epochs, _trainer(study).images) == (4, 160)
    assert study.changed({}) == study


def test_a_study_may_train_with_a_function(study: Study) -> None:
    linear = load(str(Path(__file__).parents[2] / "studies" / "examples" / "linear.py"))
    own = dataclasses.replace(study, train=linear.train, metric="auc", direction="minimize")
    assert isinstance(own.trainer, FunctionTrainer)
    definition = own.definition(None)
    assert definition["train"] == "Linear"
    assert (definition["metric"], definition["direction"]) == ("auc", "minimize")
    assert own.dataset is None
    assert (own.setting, own.incomparable) == ("4 epochs per trial", None)


def test_a_variant_outside_the_ranges_is_refused(study: Study) -> None:
    odd = dataclasses.replace(study.variants["question-1"], lr=0.5)
    with pytest.raises(
        UserError, match=r"variant odd: lr must be a number from 0.0001 to 0.1, not 0.5"
    ):
        dataclasses.replace(study, variants={"odd": odd})


def test_a_variant_is_either_optional_or_not(study: Study) -> None:
    with pytest.raises(UserError, match="variant question-1: it is an optional variant too"):
        dataclasses.replace(study, optional_variants=study.variants)
    odd = dataclasses.replace(study.variants["question-1"], lr=0.5)
    with pytest.raises(UserError, match="variant odd: lr must be a number from"):
        dataclasses.replace(study, optional_variants={"odd": odd})


@pytest.mark.parametrize("name", ["", " ", "a\nb", 1, "best", "17"])
def test_a_variants_name_is_unlike_those_of_other_trials(study: Study, name: Any) -> None:
    with pytest.raises(UserError, match="a variant's name must"):
        dataclasses.replace(study, variants={name: study.variants["question-1"]})


def test_a_difference_of_definition_is_named(study: Study) -> None:
    ranges = {"schedule": CategoricalDistribution(("cosine",))}
    changes = {"epochs": 5, "trials": 50, "seed": 3, "images": 96, "metric": "test_loss"}
    other = study.changed({**changes, "direction": "minimize", "ranges": ranges, "variants": {}})
    found = differences(study.definition("x"), other.definition("x"))
    assert found[:-1] == [
        "images is 160 in the database and 96 here",
        "epochs is 4 in the database and 5 here",
        "metric is 'test_accuracy' in the database and 'test_loss' here",
        "direction is 'maximize' in the database and 'minimize' here",
        "final_metric is 'test_accuracy' in the database and 'test_loss' here",
        "seed is 0 in the database and 3 here",
    ]
    assert found[-1] == "range of schedule is 'constant, cosine' in the database and 'cosine' here"
    assert differences(study.definition("x"), study.definition("y"))
    assert not differences(study.definition("x"), dataclasses.replace(study).definition("x"))


def _trial(number: int, **attributes: object) -> FrozenTrial:
    trial = create_trial(value=0.5, user_attrs=attributes)
    trial.number = number
    return trial


def test_a_re_run_has_the_seed_that_it_was_given(study: Study) -> None:
    seeds = [study.repeat_seed(repeat) for repeat in range(100)]
    assert len(set(seeds)) == 100
    assert [study.trial_seed(_trial(7, seed=seed)) for seed in seeds] == seeds


@pytest.mark.slow
def test_studies_and_storage_load_without_torch() -> None:
    code = (
        "import sys, search.study, search.database.database, search.worker.claims;"
        "import search.reporting.terminal, search.reporting.progress;"
        "search.study.load('cifar'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_final_metric_for_which_nothing_is_held_out_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is held out for the metric test_accuracy"):
        load("digits").changed({"final_metric": "validation_accuracy"})
