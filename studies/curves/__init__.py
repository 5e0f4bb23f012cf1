"""Learning curves of many choices of the course's network, to try schedulers on.

`random_choices.py` is the study that records those of random choices, none of them pruned:

    python -m search.run --study studies/curves/random_choices.py --workers auto

It resumes like any search. Besides the metrics of every epoch it records the mean training loss
over the first eighth, quarter and half of the first epoch, to see how early a poor trial shows.
"""
