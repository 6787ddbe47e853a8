"""A choice: one registered thing with its options bound, ready to be built, and plain enough to be stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import MissingExtraError, RecipeError
from toolkit.plugins import current_toolkit


@dataclass(frozen=True)
class Choice:
    """What a recipe's section names, by full name, with bound options.

    `parts` are choices handed to the object under their own names: a model's `attention`.
    """

    kind: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Choice] = field(default_factory=dict)

    def target(self) -> Any:
        """Return the registered object, unbuilt. Raises: UnknownNameError, MissingExtraError, PluginError."""
        return current_toolkit().registry.get(self.kind, self.name).load()

    def build(self, *positional: Any, **provided: Any) -> Any:
        """Build the object from its options and what only the caller knows (sizes, parameters).

        Raises: RecipeError if the object refuses its values, naming it; MissingExtraError if it lacks a package; our
        own error types pass unchanged.
        """
        entry = current_toolkit().registry.get(self.kind, self.name)
        target = entry.load()
        try:
            return target(*positional, **provided, **self.parts, **self.options)
        except ModuleNotFoundError as error:  # some classes look for their package only when they are built
            raise MissingExtraError(f"{self.name} lacks a package: {error}. {entry.how_to_install()}") from error
        except (ValueError, TypeError) as error:
            if type(error) is ValueError:
                raise RecipeError(f"{self.name} refuses {_shown(self.options)}: {error}") from error
            raise

    def document(self) -> dict[str, Any]:
        """Return the recipe section that makes this choice."""
        return {"use": self.name, **self.options}


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items()) or "its defaults"
