"""Dates of many locales: what is read always says which date is meant, and dates of tests are unseen."""

from __future__ import annotations

import datetime
import warnings

import pytest
from toolkit_text.data.dates import FORMATS, LOCALES, Dates, written

from toolkit.errors import DataError, ToolkitWarning

SMALL = {"train_pairs": 600, "val_pairs": 60, "test_pairs": 200}


def test_pairs_are_dates_as_they_are_written_and_in_iso_form():
    data = Dates(locales=["de", "en", "ja"], **SMALL)
    for name, pairs in data.read().items():
        assert len(pairs) == SMALL[f"{name}_pairs"]
        for source, target in zip(pairs.source, pairs.target, strict=True):
            date = datetime.date.fromisoformat(target)
            assert 1930 <= date.year <= 2029
            locale, _, text = source.partition(" ")
            assert text in {written(date, locale, how) for how in FORMATS}


def test_some_are_known():
    date = datetime.date(2009, 3, 7)
    assert written(date, "de", "full") == "Samstag, 7. März 2009"
    assert written(date, "de", "short") == "07.03.09"
    assert written(date, "ja", "long") == "2009年3月7日"
    assert written(date, "en", "d MMM y") == "7 Mar 2009"
    assert written(date, "fr", "~yMMMd") == "7 mars 2009"


def test_dates_of_tests_are_unseen_and_their_locales_are_seen():
    found = Dates(locales=["de", "en", "tr"], first_year=2000, years=10, **SMALL).read()
    dates = {name: set(pairs.target) for name, pairs in found.items()}
    assert not dates["train"] & dates["test"]
    assert not dates["train"] & dates["val"]
    assert not dates["val"] & dates["test"]
    seen = {source.split()[0] for source in found["train"].source}
    assert seen == {source.split()[0] for source in found["test"].source} == {"de", "en", "tr"}


def test_they_are_drawn_by_their_own_seed():
    one, again, other = (Dates(locales=["de"], split_seed=seed, **SMALL).read()["test"] for seed in (0, 0, 1))
    assert one.source == again.source
    assert one.source != other.source


def test_every_way_of_the_defaults_says_which_date_is_meant():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ways = Dates().ways()
    assert len(ways) == len(LOCALES) * len(FORMATS)
    # every date of three years that could be taken for another, in full
    meant: dict[str, datetime.date] = {}
    for locale, how in ways:
        for year in (2001, 2012):
            for day in range(0, 365, 3):
                date = datetime.date(year, 1, 1) + datetime.timedelta(day)
                text = f"{locale} {written(date, locale, how)}"
                assert meant.setdefault(text, date) == date


def test_ways_that_leave_a_date_open_are_left_out():
    data = Dates(locales=["en", "de"], formats=["short", "dd/MM/yy", "MMM y", "~yMd"], **SMALL)
    with pytest.warns(ToolkitWarning, match=r"3 of 8 ways .* left out: dd/MM/yy of en, MMM y of en, MMM y of de"):
        ways = data.ways()
    assert ways == [("en", "short"), ("en", "~yMd"), ("de", "short"), ("de", "dd/MM/yy"), ("de", "~yMd")]
    with pytest.raises(DataError, match="none of MMM y tells dates apart"):
        Dates(locales=["en"], formats=["MMM y"], **SMALL).ways()


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match=r"there is no locale 'de_AU'.*Did you mean 'de_AT'|there is no locale 'de_AU'"):
        Dates(locales=["de_AU"])
    with pytest.raises(DataError, match="tell 100 years apart"):
        Dates(years=101)
    with pytest.raises(DataError, match="one of each at least"):
        Dates(locales=[])
    with pytest.raises(DataError, match="'~yQQQQw' is no way to write a date in de"):
        Dates(locales=["de"], formats=["~yQQQQw"], **SMALL).read()
    with pytest.raises(DataError, match="leaves no date"):
        Dates(locales=["de"], years=1, val_share=0.0, **SMALL).read()


def test_the_spec_is_plain_and_its_characters_come_back():
    data = Dates(locales=["de", "he"], **SMALL)
    data.setup()
    assert (data.spec["pad"], data.spec["begin"], data.spec["end"]) == (0, 2, 3)
    batch = data.splits["test"].batch(data.splits["test"].lengths[:, 0].argsort()[:3])
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(data.spec["tokenizer"])
    writer = Tokenizer.from_str(data.spec["target_tokenizer"])
    sources = data.read()["test"].source
    for place, row in enumerate(batch.row.tolist()):
        tokens = batch.source[place, : batch.source_lengths[place] - 1].tolist()
        assert reader.decode(tokens, skip_special_tokens=False) == sources[row]
        written_tokens = batch.target[place][batch.written[place]][:-1].tolist()
        assert writer.decode(written_tokens, skip_special_tokens=False) == batch.reference[place]
