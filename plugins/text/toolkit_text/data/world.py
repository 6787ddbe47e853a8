"""A small world of people, places and things: what happens in it is told, and what follows from that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

PEOPLE = ("Ada", "Bo", "Chike", "Dara", "Emil", "Farah", "Goro", "Hana", "Ines", "Jonas", "Kofi", "Lena")
PLACES = ("harbour", "market", "library", "orchard", "tower", "bakery", "stable", "bridge", "chapel", "mill")
THINGS = ("lamp", "kite", "ladder", "drum", "basket", "compass", "whistle", "rope", "mirror", "bell")
NUMBERS = ("none", "one", "two", "three", "four")

MOVES = ("walks to", "goes to", "runs to", "heads for")
TAKES = ("picks up", "takes", "lifts")
LEAVES = ("puts down", "leaves", "drops")
GIVES = ("hands the {thing} to {other}", "gives {other} the {thing}")


@dataclass(frozen=True)
class Cast:
    """Who and what there is in a world."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]

    @classmethod
    def drawn(cls, chance: Random) -> Cast:
        """Draw four people, five places and four things."""
        return cls(
            *(tuple(sorted(chance.sample(names, count))) for names, count in ((PEOPLE, 4), (PLACES, 5), (THINGS, 4)))
        )


@dataclass(frozen=True)
class Stay:
    """Somebody or something at a place, and the sentences that say so."""

    place: str
    facts: tuple[int, ...]


@dataclass
class World:
    """What was told so far, and what follows: where people and things have been, in order, and who holds what.

    A thing appears where somebody first picks it up. It goes with who holds it, and stays where it is left.
    """

    cast: Cast
    chance: Random
    sentences: list[str] = field(default_factory=list)
    been: dict[str, list[Stay]] = field(default_factory=dict)
    trail: dict[str, list[Stay]] = field(default_factory=dict)
    holder: dict[str, tuple[str, int]] = field(default_factory=dict)
    dealings: dict[str, list[int]] = field(default_factory=dict)
    """The sentences in which somebody comes to hold a thing, or no longer does."""

    def happen(self) -> None:
        """Let one thing happen, and tell it."""
        events: list[tuple[Callable[[], bool], float]] = [
            (self._move, 0.55),
            (self._take, 0.25),
            (self._leave, 0.1),
            (self._give, 0.1),
        ]
        event = self.chance.choices([each for each, _ in events], [share for _, share in events])[0]
        if not event():
            self._move()

    def place_of(self, person: str) -> str | None:
        """Return where somebody is, None if that was never told."""
        return self.been[person][-1].place if person in self.been else None

    def held_by(self, person: str) -> list[str]:
        """Return what somebody holds."""
        return [thing for thing, (who, _) in self.holder.items() if who == person]

    def _tell(self, sentence: str) -> int:
        self.sentences.append(sentence)
        return len(self.sentences) - 1

    def _move(self) -> bool:
        person = self.chance.choice(self.cast.people)
        place = self.chance.choice([each for each in self.cast.places if each != self.place_of(person)])
        fact = self._tell(f"{person} {self.chance.choice(MOVES)} the {place}.")
        self.been.setdefault(person, []).append(Stay(place, (fact,)))
        for thing in self.held_by(person):
            self.trail[thing].append(Stay(place, (self.holder[thing][1], fact)))
        return True

    def _take(self) -> bool:
        able = [
            (person, thing)
            for person in self.been
            for thing in self.cast.things
            if thing not in self.holder
            and (thing not in self.trail or self.trail[thing][-1].place == self.place_of(person))
        ]
        if not able:
            return False
        person, thing = self.chance.choice(able)
        fact = self._tell(f"{person} {self.chance.choice(TAKES)} the {thing}.")
        self._hold(person, thing, fact)
        return True

    def _leave(self) -> bool:
        if not self.holder:
            return False
        thing = self.chance.choice(list(self.holder))
        person, _ = self.holder.pop(thing)
        fact = self._tell(f"{person} {self.chance.choice(LEAVES)} the {thing}.")
        self.dealings[person].append(fact)
        self._stay(thing, person, fact)
        return True

    def _give(self) -> bool:
        able = [
            (thing, person, other)
            for thing, (person, _) in self.holder.items()
            for other in self.been
            if other != person and self.place_of(other) == self.place_of(person)
        ]
        if not able:
            return False
        thing, person, other = self.chance.choice(able)
        fact = self._tell(f"{person} {self.chance.choice(GIVES).format(thing=thing, other=other)}.")
        self.dealings[person].append(fact)
        self._hold(other, thing, fact)
        return True

    def _hold(self, person: str, thing: str, fact: int) -> None:
        self.holder[thing] = (person, fact)
        self.dealings.setdefault(person, []).append(fact)
        self._stay(thing, person, fact)

    def _stay(self, thing: str, person: str, fact: int) -> None:
        """Note that a thing is where somebody is: what was told last says so, and where that somebody went."""
        here = Stay(self.been[person][-1].place, (*self.been[person][-1].facts, fact))
        stays = self.trail.setdefault(thing, [])
        if stays:
            stays[-1] = here
        else:
            stays.append(here)
