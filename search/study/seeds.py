"""Seeds, derived from their purpose.

All random generators of the service are seeded here. A trial's draws depend only on the study's
seed, the trial's number and the epoch, so no generator state has to be stored.
"""

import hashlib

SEEDS = 2**32
"""The number of different seeds."""


def derive_seed(*path: int | str) -> int:
    """Return the seed for `path`, from 0 to `SEEDS` - 1 (NumPy's maximum).

    The seed is the first four bytes of the path's SHA-256. It is the same on every machine and
    release, without the correlations of consecutive seeds such as `seed + number`.
    """
    digest = hashlib.sha256("/".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
