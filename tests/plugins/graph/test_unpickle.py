import collections
import os
import pickle

import numpy as np
import pytest
import scipy.sparse
from toolkit_graph.data.unpickle import unpickle

from toolkit.errors import DataError


class Runs:
    """What a hostile pickle does: names a function to call while it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dump(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_arrays_come_back(tmp_path, protocol, kind):
    array = np.arange(6, dtype=kind).reshape(2, 3)
    found = unpickle(dump(tmp_path / "file", array, protocol))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_csr_matrices_and_containers_come_back(tmp_path):
    matrix = scipy.sparse.random(5, 4, density=0.5, format="csr", random_state=0)
    graph = collections.defaultdict(list, {0: [1, 2], 2: [0]})
    found, neighbours, scalar = unpickle(dump(tmp_path / "file", (matrix, graph, np.float64(0.5))))
    assert (found != matrix).nnz == 0
    assert neighbours == {0: [1, 2], 2: [0]}
    assert scalar == 0.5


def test_python_2_pickles_of_old_numpy_and_scipy_are_read(tmp_path):
    # The opcodes as Python 2 wrote them: old module names, byte strings that are not UTF-8.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\n"
        b"tR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\xe9\\x07'\ntb"
    )
    (tmp_path / "array").write_bytes(array + b".")
    np.testing.assert_array_equal(unpickle(tmp_path / "array"), np.array([0xE9, 7], dtype=np.uint8))
    graph = b"ccollections\ndefaultdict\n(c__builtin__\nlist\ntR."
    (tmp_path / "graph").write_bytes(graph)
    assert unpickle(tmp_path / "graph")["new"] == []
    old = pickle.dumps(scipy.sparse.identity(2, format="csr"), protocol=2).replace(
        b"scipy.sparse._csr", b"scipy.sparse.csr"
    )
    assert b"scipy.sparse.csr" in old
    (tmp_path / "matrix").write_bytes(old)
    assert unpickle(tmp_path / "matrix").shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (Runs(os.system, "touch {mark}"), r"(posix|nt)\.system"),
        (Runs(eval, "open('{mark}', 'w')"), r"builtins\.eval"),
        (Runs(getattr, np, "load"), r"builtins\.getattr"),
        (Runs(np.load, "{mark}"), r"numpy"),
        (Runs(collections.Counter, ""), r"collections\.Counter"),
        (Runs(scipy.sparse.load_npz, "{mark}"), r"scipy\.sparse.*load_npz"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_named_and_not_run(tmp_path, call, named, protocol):
    mark = tmp_path / "ran"
    function, arguments = call.call
    filled = Runs(function, *(part.format(mark=mark) if isinstance(part, str) else "x" for part in arguments))
    path = dump(tmp_path / "file", {"inside": [filled]}, 2 if function is getattr else protocol)
    with pytest.raises(DataError, match=rf"asks for {named}"):
        unpickle(path)
    assert not mark.exists()


def test_an_allowed_name_reached_through_another_module_is_refused(tmp_path):
    (tmp_path / "dotted").write_bytes(pickle.PROTO + b"\x04" + b"\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(DataError, match=r"numpy\.ndarray\.tofile"):
        unpickle(tmp_path / "dotted")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(np.arange(9))[:-7]])
def test_a_broken_pickle_is_a_data_error(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match="not a readable pickle"):
        unpickle(tmp_path / "file")
