"""Zachary's karate club: the graph that needs no download."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from toolkit.binding import NonNegative, Positive
from toolkit_graph.data.nodes import Neighbors, NodeData, NodeSet, undirected
from toolkit_graph.data.sampler import Sampler

# Friends of each member among the members with a greater number, from 0 (Zachary 1977, figure 3).
FRIENDS = {
    0: (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    1: (2, 3, 7, 13, 17, 19, 21, 30),
    2: (3, 7, 8, 9, 13, 27, 28, 32),
    3: (7, 12, 13),
    4: (6, 10),
    5: (6, 10, 16),
    6: (16,),
    8: (30, 32, 33),
    9: (33,),
    13: (33,),
    14: (32, 33),
    15: (32, 33),
    18: (32, 33),
    19: (33,),
    20: (32, 33),
    22: (32, 33),
    23: (25, 27, 29, 32, 33),
    24: (25, 27, 31),
    25: (31,),
    26: (29, 33),
    27: (33,),
    28: (31, 33),
    29: (32, 33),
    30: (32, 33),
    31: (32, 33),
    32: (33,),
}
MEMBERS = 34
# Groups found by modularity (Brandes et al. 2008), as numbered by Kipf & Welling 2017 and PyG.
GROUPS = (1, 1, 1, 1, 3, 3, 3, 1, 0, 1, 3, 1, 1, 1, 0, 0, 3, 1, 0, 1, 0, 1, 0, 0, 2, 2, 0, 0, 2, 0, 0, 2, 0, 0)


class KarateClub(NodeData):
    """34 members of a club, 78 friendships, 4 groups; each member's only feature is who they are.

    The first member of each group is labelled for training; the others go to test and validation in turn, group by
    group. Source: Zachary 1977, doi:10.1086/jar.33.4.3629752; setting of Kipf & Welling 2017, arXiv:1609.02907.
    """

    def __init__(
        self,
        *,
        self_loops: bool = True,
        batch_size: Positive | None = None,
        neighbors: Neighbors | None = None,
        sampler: Sampler = "auto",
        workers: NonNegative = 0,
    ) -> None:
        super().__init__(
            self_loops=self_loops,
            normalize=False,
            batch_size=batch_size,
            neighbors=neighbors,
            sampler=sampler,
            workers=workers,
        )

    def read(self) -> NodeSet:
        labels = np.array(GROUPS)
        first, rest = zip(*((members[:1], members[1:]) for members in _by_group(labels)), strict=True)
        return NodeSet(
            features=scipy.sparse.identity(MEMBERS, dtype=np.float32, format="csr"),
            labels=labels,
            links=undirected(np.array([(one, other) for one, others in FRIENDS.items() for other in others])),
            train=np.concatenate(first),
            val=np.sort(np.concatenate([members[1::2] for members in rest])),
            test=np.sort(np.concatenate([members[0::2] for members in rest])),
            classes=[f"group {group}" for group in range(4)],
        ).check("the karate club")


def _by_group(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == group) for group in range(int(labels.max()) + 1)]
