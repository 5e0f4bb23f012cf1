"""Learning curves of the course's network on 4,000 images of CIFAR-10: 200 random choices, and 60
near the best of them.

    python -m search.run --study studies/curves/cifar10.py --workers auto

`python -m studies.curves.table` writes it to `cifar10.jsonl`. Then every fifth random one is
trained with two more seeds, and the table is written again:

    for trial in $(python -m studies.curves.ranks --every 5); do
      python -m search.reproduce --study studies/curves/cifar10.py --trial $trial --repeats 2
    done

The recording is `cifar10.db`, which resumes after `cp studies/curves/cifar10.db search.db`.
"""

from studies.curves.recording import recording

AT_RANDOM = 200
"""The number of trials at random, which are the first ones."""

study = recording("curves", dataset="cifar10", images=4000, at_random=AT_RANDOM, near_the_best=60)
