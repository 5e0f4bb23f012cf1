"""Learning curves of the course's network on scikit-learn's digits: 100 random choices.

    python -m search.run --study studies/curves/digits.py --workers auto
    python -m studies.curves.table --name curves-digits --out studies/curves/digits.jsonl

A second task: what is chosen on one is judged on the other.
"""

from studies.curves.recording import recording

study = recording("curves-digits", dataset="digits", at_random=100)
