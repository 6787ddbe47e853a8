"""How a mechanism is computed. Each backend either matches the reference or says why it will not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from toolkit.attention.backends import chunked, edges, flash_attn, flex, reference, rows, sdpa, trust
from toolkit.attention.call import Call
from toolkit.attention.need import Weights
from toolkit.errors import CapabilityError, UnknownNameError, nearest

if TYPE_CHECKING:
    from toolkit.attention.pairwise import Pairwise

Run = Callable[["Pairwise", Call], tuple[Tensor, Weights | None, Tensor | None]]
_BACKENDS = {  # the first that will run is taken
    "flash_attn": flash_attn,
    "flex": flex,
    "chunked": chunked,
    "sdpa": sdpa,
    "edges": edges,
    "rows": rows,
    "reference": reference,
}
_HESITATES = {
    "flash_attn": flash_attn.hesitation,
    "flex": flex.hesitation,
    "chunked": chunked.hesitation,
    "sdpa": sdpa.hesitation,
}  # why one that could run it is left unless it is asked for


_CHECKED = {  # kernels that others wrote are held to plain maths on the device before they are chosen
    "flash_attn": trust.pairwise(flash_attn, flash_attn.CASES),
    "flex": trust.pairwise(flex, flex.CASES),
}


@dataclass(frozen=True)
class Reasons:
    """Which way of computing a request gets, why, and why each one before it would not do."""

    name: str
    reason: str
    refused: dict[str, str]

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self.reason}", *(f"not {name}: {why}" for name, why in self.refused.items())])


@dataclass(frozen=True)
class Choice(Reasons):
    """The backend that a request gets, with what runs it."""

    run: Run


def names() -> list[str]:
    """Return the names of the backends, in the order they are tried."""
    return list(_BACKENDS)


def check_name(name: str) -> None:
    """Raise UnknownNameError unless `name` is `auto` or a backend."""
    if name != "auto" and name not in _BACKENDS:
        raise UnknownNameError(f"no attention backend is called {name!r}.{nearest(name, ['auto', *_BACKENDS])}")


def choose(mechanism: Pairwise, call: Call) -> Choice:
    """Choose the backend for a request, or check the one that the mechanism was told to use.

    Raises: CapabilityError if the forced backend will not run it, naming those that will.
    """
    wanted = mechanism.backend
    refused: dict[str, str] = {}
    for name, backend in _BACKENDS.items():
        if wanted not in ("auto", name):
            continue
        why = _refusal(name, mechanism, call)
        if why is None and wanted == "auto" and name in _HESITATES:
            why = _HESITATES[name](mechanism, call)
        if why is None and wanted == "auto" and name in _CHECKED:
            why = trust.doubt(name, call.q.device, call.q.dtype, _CHECKED[name])
        if why is None:
            reason = backend.__doc__ or "" if wanted == "auto" else "it was asked for"
            return Choice(name, reason.partition("\n")[0], refused, backend.run)
        refused[name] = why
    works = [name for name in _BACKENDS if _refusal(name, mechanism, call) is None]
    what = f"backend {wanted!r} cannot run {mechanism.name!r}: {refused.get(wanted, refused)}"
    raise CapabilityError(f"{what}. What can: {', '.join(works) or 'none'}")


def _refusal(name: str, mechanism: Pairwise, call: Call) -> str | None:
    return mechanism.refusal(name, call) or _BACKENDS[name].refusal(mechanism, call)
