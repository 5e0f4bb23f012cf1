"""Handwritten digits: the same search on the 1,797 images of 8×8 in scikit-learn.

Used for the quick start and the tests: real data, no network access, and trials of seconds.
"""

from studies.cifar import VARIANTS, course_study

study = course_study("digits", dataset="digits", variants=VARIANTS, trials=20, epochs=8)
