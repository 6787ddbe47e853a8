"""Small stories of our own, made on the spot: six kinds of questions whose supporting sentences are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

from toolkit.binding import NonNegative, Positive
from toolkit.errors import DataError, nearest
from toolkit_text.data.questions import StoryQuestions
from toolkit_text.data.story import Asked
from toolkit_text.data.world import NUMBERS, Cast, Stay, World

QUESTIONS = 4
"""Questions of a story."""


class Found(NamedTuple):
    """A question that can be answered, its answer, and the sentences that say so."""

    question: str
    answer: str
    facts: tuple[int, ...]


def where_person(world: World, chance: Random) -> Found | None:
    """One fact: the last place that somebody went to."""
    if not world.been:
        return None
    person = chance.choice(list(world.been))
    stay = world.been[person][-1]
    return Found(f"Where is {person} now?", stay.place, stay.facts)


def where_thing(world: World, chance: Random) -> Found | None:
    """Two facts: who came to hold a thing or left it, and where that was."""
    if not world.trail:
        return None
    thing = chance.choice(list(world.trail))
    stay = world.trail[thing][-1]
    return Found(f"Where is the {thing} now?", stay.place, stay.facts)


def where_thing_before(world: World, chance: Random) -> Found | None:
    """Three facts: who held a thing, and two places that it came through."""
    pairs = [(thing, *pair) for thing, stays in world.trail.items() for pair in _one_after_another(stays)]
    if not pairs:
        return None
    thing, before, after = chance.choice(pairs)
    facts = tuple(sorted({*before.facts, *after.facts}))
    return Found(f"Where was the {thing} before the {after.place}?", before.place, facts)


def is_there(world: World, chance: Random) -> Found | None:
    """Yes or no: whether somebody is at a place; as often one as the other."""
    if not world.been:
        return None
    person = chance.choice(list(world.been))
    stay = world.been[person][-1]
    others = [place for place in world.cast.places if place != stay.place]
    place, answer = (stay.place, "yes") if chance.random() < 0.5 else (chance.choice(others), "no")
    return Found(f"Is {person} at the {place}?", answer, stay.facts)


def how_many(world: World, chance: Random) -> Found | None:
    """Counting: how many things somebody holds, after all that was taken, left and given."""
    people = [person for person, facts in world.dealings.items() if facts]
    if not people:
        return None
    person = chance.choice(people)
    count = NUMBERS[len(world.held_by(person))]
    return Found(f"How many things does {person} hold?", count, tuple(world.dealings[person]))


def where_before_or_after(world: World, chance: Random) -> Found | None:
    """Order: where somebody was before a place, or went after it."""
    pairs = [(person, *pair) for person, stays in world.been.items() for pair in _one_after_another(stays)]
    if not pairs:
        return None
    person, before, after = chance.choice(pairs)
    facts = (*before.facts, *after.facts)
    if chance.random() < 0.5 or [stay.place for stay in world.been[person]].count(before.place) > 1:
        return Found(f"Where was {person} before the {after.place}?", before.place, facts)
    return Found(f"Where did {person} go after the {before.place}?", after.place, facts)


TASKS: dict[str, Callable[[World, Random], Found | None]] = {
    "one_fact": where_person,
    "two_facts": where_thing,
    "three_facts": where_thing_before,
    "yes_no": is_there,
    "counting": how_many,
    "order": where_before_or_after,
}


class Stories(StoryQuestions):
    """Questions about stories of a simulated world, in sentences of our own; nothing is read from anywhere.

    tasks: kinds of questions, None for all: one_fact, two_facts, three_facts, yes_no, counting, order. train, val,
    test: stories of each kind, of four questions each. seed: what the worlds are drawn by; the run's seed does not
    change them. No world of one split has the same people, places and things as one of another, and no story with its
    question is in two splits. The rest is `StoryQuestions`'.
    """

    def __init__(
        self,
        *,
        tasks: list[str] | None = None,
        train: Positive = 1000,
        val: Positive = 100,
        test: Positive = 250,
        seed: NonNegative = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for task in tasks if tasks is not None else ():
            if task not in TASKS:
                raise DataError(f"data.tasks: there is no task {task!r}.{nearest(task, TASKS)}")
        if tasks is not None and not tasks:
            raise DataError("data.tasks names no task; leave it out for all")
        self.tasks = list(TASKS) if tasks is None else list(dict.fromkeys(tasks))
        self.counts = {"train": train, "val": val, "test": test}
        self.seed = seed
        self._digest = ""

    def read(self) -> dict[str, list[Asked]]:
        casts: dict[Cast, str] = {}
        known: dict[tuple[tuple[str, ...], str], str] = {}
        found: dict[str, list[Asked]] = {}
        for split, count in self.counts.items():
            chance = Random(f"{self.seed} {split}")
            found[split] = []
            for task in self.tasks:
                for story in range(count):
                    asked = told(task, story, _new_cast(chance, casts, split), chance)
                    found[split] += [
                        each for each in asked if known.setdefault((each.sentences, each.question), split) == split
                    ]
        self._digest = hashlib.sha256(repr(found).encode()).hexdigest()
        return found

    def provenance(self) -> dict[str, str]:
        return {f"stories of seed {self.seed}": self._digest}


def told(task: str, story: int, cast: Cast, chance: Random) -> list[Asked]:
    """Tell a story of one world, and stop for a question four times."""
    world, asked = World(cast, chance), list[Asked]()
    for _ in range(chance.randint(2, 4)):
        world.happen()
    while len(asked) < QUESTIONS:
        for _ in range(chance.randint(1, 4)):
            world.happen()
        found = TASKS[task](world, chance)
        if found is not None:
            asked.append(Asked(tuple(world.sentences), found.question, found.answer, found.facts, task, story))
    return asked


def _new_cast(chance: Random, casts: dict[Cast, str], split: str) -> Cast:
    """Draw a cast that no other split has."""
    while True:
        cast = Cast.drawn(chance)
        if casts.setdefault(cast, split) == split:
            return cast


def _one_after_another(stays: list[Stay]) -> list[tuple[Stay, Stay]]:
    """Return each stay with the one before it, where the later one's place says which stay is meant."""
    places = [stay.place for stay in stays]
    return [pair for pair in pairwise(stays) if places.count(pair[1].place) == 1]
