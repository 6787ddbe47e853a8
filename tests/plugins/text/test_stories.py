"""The answers of our own stories are checked by another reader of them, which knows only the sentences."""

import re

import pytest
from toolkit_text.data.stories import TASKS, Stories
from toolkit_text.data.world import LEAVES, MOVES, NUMBERS, PEOPLE, PLACES, TAKES, THINGS

from toolkit.errors import DataError

MOVE = re.compile(rf"(\w+) (?:{'|'.join(MOVES)}) the (\w+)\.")
TAKE = re.compile(rf"(\w+) (?:{'|'.join(TAKES)}) the (\w+)\.")
LEAVE = re.compile(rf"(\w+) (?:{'|'.join(LEAVES)}) the (\w+)\.")
GIVE = re.compile(r"(\w+) hands the (\w+) to (\w+)\.")
GIVE_TOO = re.compile(r"(\w+) gives (\w+) the (\w+)\.")


def made(**options):
    data = Stories(**{"train": 30, "val": 10, "test": 10, **options})
    data.setup()
    return data


@pytest.fixture(scope="module")
def texts():
    return made(train=120).texts


class Reader:
    """Follows a story sentence by sentence: where people are, who holds what, and where things have been."""

    def __init__(self, sentences):
        self.paths, self.holds, self.trails = {}, {}, {}
        for sentence in sentences:
            if found := MOVE.fullmatch(sentence):
                self.paths.setdefault(found[1], []).append(found[2])
            elif found := TAKE.fullmatch(sentence):
                self.holds[found[2]] = found[1]
            elif found := LEAVE.fullmatch(sentence):
                assert self.holds.pop(found[2]) == found[1], sentence
            else:
                found, other_way = GIVE.fullmatch(sentence), GIVE_TOO.fullmatch(sentence)
                giver, thing, other = found.groups() if found else other_way.group(1, 3, 2)
                assert self.holds[thing] == giver
                assert self.paths[giver][-1] == self.paths[other][-1]
                self.holds[thing] = other
            for thing, person in self.holds.items():
                trail = self.trails.setdefault(thing, [])
                if not trail or trail[-1] != self.paths[person][-1]:
                    trail.append(self.paths[person][-1])

    def answer(self, question):
        words = re.findall(r"\w+", question)
        if question.startswith("Where is the"):
            return self.trails[words[3]][-1]
        if question.startswith("Where is"):
            return self.paths[words[2]][-1]
        if question.startswith("Is"):
            return "yes" if self.paths[words[1]][-1] == words[4] else "no"
        if question.startswith("How many"):
            return NUMBERS[sum(person == words[4] for person in self.holds.values())]
        path = self.trails[words[3]] if question.startswith("Where was the") else self.paths[words[2]]
        place = path.index(words[-1])
        assert path.count(words[-1]) == 1
        return path[place + 1] if "after" in words else path[place - 1]


def test_every_answer_follows_from_the_story(texts):
    count = 0
    for asked in texts.values():
        for each in asked:
            assert Reader(each.sentences).answer(each.question) == each.answer, each
            count += 1
    assert count == 4 * len(TASKS) * (120 + 10 + 10)


def test_supporting_sentences_are_those_that_the_answer_needs(texts):
    """Where people are concerned the answer follows from them alone; of things they name the thing and the place."""
    for each in texts["train"]:
        kept = [each.sentences[place] for place in sorted(each.support)]
        assert kept
        if each.task in ("one_fact", "yes_no", "order"):
            assert Reader(kept).answer(each.question) == each.answer
        if each.task in ("two_facts", "three_facts"):
            thing = re.search(r"the (\w+)", each.question)[1]
            assert any(thing in text for text in kept)
            assert any(each.answer in text for text in kept)
        if each.task == "counting":
            person = each.question.split()[4]
            about = [place for place, text in enumerate(each.sentences) if person in text and not MOVE.fullmatch(text)]
            assert sorted(each.support) == about


def test_each_kind_has_as_many_supporting_sentences_as_its_name_says(texts):
    sizes = {task: {len(each.support) for each in texts["train"] if each.task == task} for task in TASKS}
    assert sizes["one_fact"] == sizes["yes_no"] == {1}
    assert sizes["two_facts"] == sizes["order"] == {2}
    assert sizes["three_facts"] == {3, 4}
    assert max(sizes["counting"]) > 2


def test_no_world_and_no_question_with_its_story_is_in_two_splits(texts):
    seen = {}
    for split, asked in texts.items():
        for each in asked:
            assert seen.setdefault((each.sentences, each.question), split) == split
    assert {"train", "val", "test"} == set(seen.values())


def test_words_are_those_of_the_world(texts):
    answers = {each.answer for asked in texts.values() for each in asked}
    assert answers <= {*PLACES, *NUMBERS, "yes", "no"}
    told = " ".join(text for each in texts["train"] for text in each.sentences)
    assert all(name in told for name in (*PEOPLE, *PLACES, *THINGS))


def test_yes_is_as_frequent_as_no(texts):
    answers = [each.answer for each in texts["train"] if each.task == "yes_no"]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_a_seed_makes_the_same_stories_again():
    first, again, other = made(seed=3), made(seed=3), made(seed=4)
    assert first.texts == again.texts
    assert first.provenance() == again.provenance()
    assert first.texts["train"][:5] != other.texts["train"][:5]
    assert first.provenance() != other.provenance()


def test_kinds_are_chosen_by_name():
    data = made(tasks=["yes_no", "counting"])
    assert data.spec["tasks"] == ["counting", "yes_no"]
    assert len(data.splits["train"]) == 2 * 30 * 4
    with pytest.raises(DataError, match=r"no task 'yes_know'\. Did you mean 'yes_no'"):
        Stories(tasks=["yes_know"])
    with pytest.raises(DataError, match="names no task"):
        Stories(tasks=[])
