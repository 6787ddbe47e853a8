"""Multi30k: captions of pictures, written in English and translated into German."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import DataError
from toolkit.sources import LocalFile, Resource, Url, fetch
from toolkit_text.data.parallel import Pairs, ParallelTexts, paired

SITE = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
Language = Literal["en", "de"]
Test = Literal["test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr"]

SHA256 = {
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2017_flickr.de": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_mscoco.de": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "test_2018_flickr.de": "ddd0130c7d97482dc5197a02141dae8dd79f20f03586c480d675c09a32daf608",
    "test_2018_flickr.en": "ef4f4844037d4c5dea75c9a8ed5fd78905967a26f67c255e230cc9780032654d",
}


class Multi30k(ParallelTexts):
    """29,000 captions in English and German to train on, 1,014 to validate, 1,000 to test; sentences as they are.

    source, target: the languages. test: which of the test sets of the shared tasks. folder: where the files already
    are, such as train.en.gz; else they come from their site. The rest is `ParallelTexts`'.
    Source: Elliott et al. 2016, Multi30K: Multilingual English-German Image Descriptions, arXiv:1605.00459; the tests
    of 2017 and 2018: arXiv:1710.07177 and Barrault et al. 2018.
    Raises: DataError for a language translated into itself.
    """

    def __init__(
        self,
        *,
        source: Language = "en",
        target: Language = "de",
        test: Test = "test_2016_flickr",
        folder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if source == target:
            raise DataError(f"data.source and data.target are both {source!r}: nothing is to be translated")
        self.source, self.target, self.test = source, target, test

        def resource(name: str) -> Resource:
            local = [] if folder is None else [LocalFile(path=folder, name=f"{name}.gz")]
            return Resource(
                name=f"text/multi30k/{name}.gz",
                sha256=SHA256[name],
                sources=[*local, Url(url=f"{SITE}/{name}.gz")],
            )

        splits = {"train": "train", "val": "val", "test": test}
        self.resources = {
            split: {language: resource(f"{name}.{language}") for language in (source, target)}
            for split, name in splits.items()
        }

    def prepare_data(self) -> None:
        for each in self._all():
            fetch(each)

    def read(self) -> dict[str, Pairs]:
        return {
            split: paired(_lines(fetch(files[self.source])), _lines(fetch(files[self.target])), f"Multi30k, {split}")
            for split, files in self.resources.items()
        }

    def provenance(self) -> dict[str, str]:
        return {each.name: each.sha256 for each in self._all()}

    def _all(self) -> list[Resource]:
        return [each for files in self.resources.values() for each in files.values()]


def _lines(path: Path) -> list[str]:
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    return text.removesuffix("\n").split("\n")  # not splitlines: some sentences hold other separators of lines
