"""Learning curves of the course's network on all 50,000 images of CIFAR-10: the first 24 choices of
`cifar10.py`, to see whether 4,000 images rank them alike.

    python -m search.run --study studies/curves/full_cifar10.py --workers auto
    python -m studies.curves.table --name curves-full --out studies/curves/full_cifar10.jsonl

The choices are the same, since draws follow from the study's seed and the trial's number alone.
"""

from studies.curves.recording import recording

study = recording("curves-full", dataset="cifar10", at_random=24)
