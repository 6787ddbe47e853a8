"""Constructors that hand options on to their base class, with a signature that names them all."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, get_type_hints


class HandsOn:
    """Base of classes whose constructors may end in `**options`, which go on to the next class of the line."""

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = joined_signature(cls)


def joined_signature(cls: type) -> inspect.Signature:
    """Return what a constructor takes, with what it hands on to its bases in place of `**options`.

    Recipes are bound to it: an option that no class of the line names is an error, as if each had been written out.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        try:
            hints = get_type_hints(constructor, include_extras=True)
        except Exception:  # a name that only exists for type checkers must not stop a plugin's import
            hints = {}
        own = list(inspect.signature(constructor).parameters.values())[1:]  # without self
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD:
                found.setdefault(
                    parameter.name, parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
                )
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    ordered = sorted(found.values(), key=lambda each: (each.kind, each.default is not each.empty))
    return inspect.Signature(ordered)
