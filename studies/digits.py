"""Handwritten digits: the same search on 1,797 images of 8×8 that come with scikit-learn.

Real data, no network access, and trials of seconds: the quick start, and what the tests run.
"""

from search.study import Study
from studies.cifar import VARIANTS

study = Study(name="digits", dataset="digits", variants=VARIANTS, trials=20, epochs=8)
