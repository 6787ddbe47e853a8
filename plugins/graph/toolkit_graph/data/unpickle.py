"""Old pickles of arrays, read without letting them run anything."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from toolkit.errors import DataError

# Where numpy, scipy and Python 2 have kept what the Planetoid files name; nothing else may be named.
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_CSR_MODULES = ("scipy.sparse.csr", "scipy.sparse._csr", "scipy.sparse")
ALLOWED = {
    *((module, name) for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")),
    *((module, "csr_matrix") for module in _CSR_MODULES),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "defaultdict"),
    ("collections", "OrderedDict"),
    ("builtins", "list"),
    ("builtins", "dict"),
    ("builtins", "tuple"),
    ("builtins", "set"),
    ("_codecs", "encode"),
}


class _AllowList(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        if name == "csr_matrix":
            return scipy.sparse.csr_matrix
        if module in _ARRAY_MODULES:
            module = "numpy._core.multiarray" if int(np.__version__.split(".")[0]) > 1 else "numpy.core.multiarray"
        return super().find_class(module, name)


def unpickle(path: Path) -> Any:
    """Read a pickle that holds numpy arrays, scipy CSR matrices and plain containers, and nothing else.

    Raises: DataError that names what the pickle asks for beyond these, or says that it is broken.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # The files are older than numpy's present way of writing a dtype's alignment.
            warnings.simplefilter("ignore")
            return _AllowList(file, encoding="latin1").load()
    except _ForbiddenError as error:
        raise DataError(
            f"{path} is a pickle that asks for {error}; only numpy arrays, scipy CSR matrices and plain containers "
            "are read. Do not trust the place it came from."
        ) from None
    except Exception as error:  # a broken pickle can raise nearly anything
        raise DataError(f"{path} is not a readable pickle: {type(error).__name__}: {error}") from error


class _ForbiddenError(Exception):
    """The pickle names something outside the allow-list."""
