"""Dates as people write them in many languages, and in ISO form: made on the spot, with CLDR's patterns and names."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import warnings
from typing import Any

import babel
import numpy as np
from babel.dates import format_date, format_skeleton
from babel.localedata import locale_identifiers

from toolkit.binding import NonNegative, Positive
from toolkit.data import Spec
from toolkit.errors import DataError, ToolkitWarning, nearest
from toolkit_text.data.parallel import Pairs, ParallelTexts
from toolkit_text.data.tokens import Kind

LOCALES = [
    *("ar", "ca", "cs", "da", "de", "el", "en", "en_GB", "es", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko"),
    *("lt", "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"),
]
FORMATS = ["short", "medium", "long", "full", "~yMd", "~yMMMd", "~yMMMEd", "~yMMMMd", "~yMMMMEEEEd", "d MMM y"]
CENTURY = 100


class Dates(ParallelTexts):
    """A locale and a date as it is written there, such as `de 7. März 2009`, beside `2009-03-07`.

    locales, formats: names of locales, and how each writes a date: CLDR's own `short`, `medium`, `long` and `full`,
    its pattern for a skeleton behind `~`, or a pattern. Calendar and digits are Gregorian and Western everywhere.
    first_year, years: the years that dates are of, 100 at most, so that two digits stand for one of them.
    train_pairs, val_pairs, test_pairs: how many are drawn, by split_seed. Each date belongs to one split, val_share and
    test_share being shares of all dates: those of test are unseen, in locales and formats that are seen.
    A format that is not one to one in its locale, or writes as an earlier one does another date (day and month the
    other way round), is left out there: what is read always says which date is meant.
    The rest is `ParallelTexts`'; tokens are characters, one vocabulary for each side.
    Raises: DataError for an unknown locale, a pattern that says nothing, or too many years.
    """

    def __init__(
        self,
        *,
        locales: list[str] = LOCALES,  # bound and stored as plain values, never changed
        formats: list[str] = FORMATS,
        first_year: Positive = 1930,
        years: Positive = CENTURY,
        train_pairs: Positive = 40_000,
        val_pairs: Positive = 1000,
        test_pairs: Positive = 4000,
        tokenizer: Kind = "characters",
        joint: bool = False,
        min_count: Positive = 1,
        split_seed: NonNegative = 0,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer=tokenizer, joint=joint, min_count=min_count, split_seed=split_seed, **options)
        if years > CENTURY:
            raise DataError(f"data.years={years}: two digits tell {CENTURY} years apart, not more")
        if first_year + years - 1 > datetime.MAXYEAR:
            raise DataError(f"data.first_year={first_year}: dates end with the year {datetime.MAXYEAR}")
        known = locale_identifiers()
        for name in locales:
            if name not in known:
                raise DataError(f"data.locales: there is no locale {name!r}.{nearest(name, known)}")
        if not locales or not formats:
            raise DataError("data.locales and data.formats: name one of each at least")
        self.locales, self.formats, self.first_year, self.years = locales, formats, first_year, years
        self.counts = {"train": train_pairs, "val": val_pairs, "test": test_pairs}

    def read(self) -> dict[str, Pairs]:
        ways = self.ways()
        first = datetime.date(self.first_year, 1, 1).toordinal()
        last = datetime.date(self.first_year + self.years - 1, 12, 31).toordinal()
        chance = np.random.default_rng(self.split_seed)
        days = first + chance.permutation(last - first + 1)
        held = {name: round(share * len(days)) for name, share in (("val", self.val_share), ("test", self.test_share))}
        dates = dict(zip(("val", "test", "train"), np.split(days, np.cumsum([*held.values()])), strict=True))
        found = {}
        for name, count in self.counts.items():
            if not len(dates[name]):
                raise DataError(f"data.{name}_share leaves no date of {len(days)} for {name}")
            drawn = zip(
                chance.choice(dates[name], count).tolist(), chance.integers(len(ways), size=count).tolist(), strict=True
            )
            pairs = [(datetime.date.fromordinal(day), *ways[way]) for day, way in drawn]
            source = [f"{locale} {written(date, locale, how)}" for date, locale, how in pairs]
            found[name] = Pairs(source, [date.isoformat() for date, _, _ in pairs], list(range(count)))
        return found

    def ways(self) -> list[tuple[str, str]]:
        """Return every locale with each format that tells all dates apart there."""
        probes = self._probes()
        kept, left_out = [], []
        for locale in self.locales:
            meant: dict[str, datetime.date] = {}
            for how in self.formats:
                texts = {date: written(date, locale, how) for date in probes}
                if len(set(texts.values())) < len(probes) or any(
                    meant.get(text, date) != date for date, text in texts.items()
                ):
                    left_out.append(f"{how} of {locale}")
                    continue
                meant.update((text, date) for date, text in texts.items())
                kept.append((locale, how))
        if not kept:
            raise DataError(f"data.formats: none of {', '.join(self.formats)} tells dates apart in any of the locales")
        if left_out:
            some = ", ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else "")
            told = f"{len(left_out)} of {len(kept) + len(left_out)} ways to write a date do not say which is meant"
            warnings.warn(ToolkitWarning(f"{told} and are left out: {some}"), stacklevel=2)
        return kept

    def _probes(self) -> list[datetime.date]:
        """Return dates whose day, month and year could be taken for each other, with one digit and with two.

        If two ways disagree in which number is which, they write two of these alike.
        """
        end = self.first_year + self.years
        numbers = (1, 2, 10, 11)
        years = [year for year in range(self.first_year, end) if year % CENTURY in numbers]
        alike = [datetime.date(*each) for each in itertools.product(years, numbers, numbers)]
        names = [datetime.date(self.first_year, month, day) for month in range(1, 13) for day in (13, 28)]
        return [*alike, *names]

    def load(self) -> Spec:
        spec = super().load()
        return {**spec, "source_name": "date", "target_name": "ISO 8601"}

    def provenance(self) -> dict[str, str]:
        made = "\n".join(line for each in self.read().values() for line in (*each.source, *each.target))
        return {f"dates by Babel {babel.__version__}": hashlib.sha256(made.encode()).hexdigest()}


def written(date: datetime.date, locale: str, how: str) -> str:
    """Return a date as a locale writes it. Raises: DataError for what is neither a width, a skeleton nor a pattern."""
    try:
        if how.startswith("~"):
            return format_skeleton(how[1:], date, locale=locale)
        return format_date(date, how, locale=locale)
    except (KeyError, ValueError, AttributeError) as error:
        raise DataError(
            f"data.formats: {how!r} is no way to write a date in {locale}: short, medium, long or full, a "
            f"skeleton such as ~yMMMd, or a pattern such as 'd MMM y' ({type(error).__name__}: {error})"
        ) from error
