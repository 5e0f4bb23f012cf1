"""Seeds, derived from what they are for.

Every random draw of the service is made from a generator seeded here, so that a trial needs no
stored generator state: its draws follow from the study's seed, the trial's number and the epoch.
"""

import hashlib


def derive_seed(*path: int | str) -> int:
    """Return the seed that belongs to `path`, from 0 to 2**32 - 1 (NumPy takes no larger one).

    The first four bytes of a SHA-256 over the path: the same on every machine and release, and
    without the correlations that neighbouring seeds such as `seed + number` can have.
    """
    digest = hashlib.sha256("/".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
