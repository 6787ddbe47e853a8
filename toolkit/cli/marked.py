"""Pages of which one part is generated: it stands between two marks, and only it is written again."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.errors import PluginError


@dataclass(frozen=True)
class Marks:
    """The lines around a generated part of a page, by the part's name."""

    name: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: written by `python -m toolkit.cli.reference`, do not edit between these marks -->"

    @property
    def end(self) -> str:
        return f"<!-- end of {self.name} -->"

    def renewed(self, page: str, part: str) -> str:
        """Return a page with `part` between the marks. Raises: PluginError if it has no marks."""
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise PluginError(
                f"the page has no marks for the {self.name}; it needs the lines {self.begin} and {self.end}"
            )
        return f"{before}{self.begin}\n\n{part}\n{self.end}{after}"
