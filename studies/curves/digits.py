"""Learning curves of the course's network on scikit-learn's digits: 100 random choices.

    python -m search.run --study studies/curves/digits.py --workers auto
    python -m studies.curves.table --name curves-digits --out studies/curves/digits.jsonl

    for trial in $(python -m studies.curves.ranks --every 5 --table studies/curves/digits.jsonl); do
      python -m search.reproduce --study studies/curves/digits.py --trial $trial --repeats 2
    done

A second task: what is chosen on one is judged on the other.
"""

from studies.curves.recording import recording

study = recording("curves-digits", dataset="digits", at_random=100)
