"""CIFAR-10: six networks of a course report, and the search around them.

The report (CS535, Winter 2019, assignment 3) trains each network once; its published figures are in
`published.csv`. Settings that it does not state follow from its questions, which build on each
other, and from PyTorch's defaults, such as layers with biases.
"""

from dataclasses import replace
from pathlib import Path

from search.study import Choices, Study

BASE = Choices(
    bn1="off",
    bn2="off",
    extra_fc=False,
    conv_bias=True,
    fc_bias=True,
    optimizer="SGD",
    lr=0.01,
    weight_decay=0.0,
    schedule="constant",
)
QUESTION_1 = replace(BASE, bn1="plain")
QUESTION_2 = replace(QUESTION_1, extra_fc=True)
QUESTION_3 = replace(QUESTION_2, optimizer="Adamax", lr=0.001, weight_decay=1e-4)
QUESTION_4_1 = replace(QUESTION_3, weight_decay=1e-5)
QUESTION_4_2 = replace(QUESTION_4_1, bn2="affine")

VARIANTS = {
    "base": BASE,
    "question-1": QUESTION_1,
    "question-2": QUESTION_2,
    "question-3": QUESTION_3,
    "question-4.1": QUESTION_4_1,
    "question-4.2": QUESTION_4_2,
}

study = Study(
    name="cifar",
    dataset="cifar10",
    variants=VARIANTS,
    trials=60,
    epochs=10,
    published=Path(__file__).with_name("published.csv"),
)
