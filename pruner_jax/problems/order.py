"""Which problems come next: a new permutation every epoch, addressed by one integer.

Takes the cursor (how many problems the run has drawn so far) and gives indices; holds no state, so
a resumed run needs nothing but its cursor.
"""

from __future__ import annotations

import numpy as np


def order(n: int, seed: int, cursor: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The next ``count`` draws from ``n`` problems: (index, visit), both int32 [count].

    ``visit`` says how often that problem had come before. Epoch e is a permutation of its own,
    drawn from (seed, e); the draws may run across its end, and two calls in a row give what one
    would.
    """
    if n < 1 or cursor < 0 or count < 0:
        raise ValueError(f"order needs n >= 1, cursor >= 0, count >= 0; got {n}, {cursor}, {count}")
    epoch, place = np.divmod(np.arange(cursor, cursor + count), n)
    index = np.empty(count, np.int32)
    for e in np.unique(epoch):
        permutation = np.random.default_rng([seed, int(e)]).permutation(n)
        index[epoch == e] = permutation[place[epoch == e]]
    return index, epoch.astype(np.int32)
