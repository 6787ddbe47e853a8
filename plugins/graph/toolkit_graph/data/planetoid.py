"""Cora, CiteSeer and PubMed on the public split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from toolkit.binding import NonNegative, Positive
from toolkit.errors import DataError, SourceError, nearest
from toolkit.files import sha256_of
from toolkit.sources import Resource, fetch
from toolkit_graph.data.nodes import Neighbors, NodeData, NodeSet
from toolkit_graph.data.planetoid_files import (
    CLASSES,
    PARTS,
    linqs_resources,
    pickle_resources,
    public_split,
    read_linqs,
    read_pickles,
)
from toolkit_graph.data.sampler import Sampler

Name = Literal["cora", "citeseer", "pubmed"]


class Planetoid(NodeData):
    """A citation graph of papers with words as features and a subject to predict.

    name: cora (2708 papers, 5278 citations, 7 subjects), citeseer (3327, 4552, 6) or pubmed (19717, 44324, 3).
    folder: where the files already are; else they come from the package index, then from their site. Cora is read from
    text; the others exist as pickles only, which are read after their sum matches and by an allow-list.
    normalize: divide each row of features by its sum. self_loops: every paper may look at itself.
    Raises: SourceError when no source gives the files; DataError when they cannot be read.
    Source: Sen et al. 2008 (doi:10.1609/aimag.v29i3.2157); split of Yang et al. 2016, arXiv:1603.08861.
    """

    def __init__(
        self,
        *,
        name: Name,
        folder: str | None = None,
        self_loops: bool = True,
        normalize: bool = True,
        batch_size: Positive | None = None,
        neighbors: Neighbors | None = None,
        sampler: Sampler = "auto",
        workers: NonNegative = 0,
    ) -> None:
        super().__init__(
            self_loops=self_loops,
            normalize=normalize,
            batch_size=batch_size,
            neighbors=neighbors,
            sampler=sampler,
            workers=workers,
        )
        if name not in get_args(Name):
            raise DataError(f"data.name: no Planetoid set is called {name!r}.{nearest(str(name), get_args(Name))}")
        self.set_name: str = name
        self.folder = folder
        self._sums: dict[str, str] = {}

    def prepare_data(self) -> None:
        self._fetch()

    def read(self) -> NodeSet:
        files = self._fetch()
        self._sums = {file: sha256_of(path) for file, path in files.items()}
        if "cora.content" in files:
            return read_linqs(files["cora.content"], files["cora.cites"], public_split(), CLASSES["cora"])
        parts = {part: files[f"ind.{self.set_name}.{part}"] for part in PARTS}
        return read_pickles(self.set_name, parts, CLASSES[self.set_name])

    def provenance(self) -> dict[str, str]:
        return dict(self._sums)

    def _fetch(self) -> dict[str, Path]:
        """Return the path of each file, by name, in the first layout that can be had."""
        layouts = [pickle_resources(self.set_name, self.folder)]
        if self.set_name == "cora":
            layouts.insert(0, linqs_resources(self.folder))
        if self.folder is not None:  # what lies there decides, whatever the cache holds: the layouts order nodes apart
            here = Path(self.folder).expanduser()
            layouts.sort(key=lambda layout: not any((here / resource.path.name).exists() for resource in layout))
        failures = []
        for layout in layouts:
            try:
                return _all(layout)
            except SourceError as error:
                failures.append(str(error))
        raise SourceError("\nNor could the same set in its other layout:\n".join(failures))


def _all(wanted: list[Resource]) -> dict[str, Path]:
    return {resource.path.name: fetch(resource) for resource in wanted}
