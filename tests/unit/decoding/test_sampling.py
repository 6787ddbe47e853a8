"""Sampling: what is left to draw from, how often it is drawn, and how texts end."""

import pytest
import torch

from toolkit.decoding.sampling import Sampling, sample
from toolkit.errors import ShapeError

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]])


class Table:
    """Scores what follows by the last token alone, and keeps what it was given."""

    def __init__(self, rows):
        self.rows, self.taken, self.orders = rows, [], []

    def advance(self, tokens):
        self.taken.append(tokens.clone())
        return self.rows[tokens[:, -1]]

    def reorder(self, samples):
        self.orders.append(samples.clone())


def left(sampling, logits=LOGITS):
    return sampling.narrowed(logits).isfinite().tolist()


def test_top_k_keeps_the_likeliest_and_equals_of_the_last():
    assert left(Sampling(top_k=1)) == [[True, False, False, False], [False, False, True, False]]
    assert left(Sampling(top_k=2)) == [[True, True, False, False], [True] * 4]
    assert left(Sampling(top_k=99)) == [[True] * 4] * 2


def test_top_p_keeps_the_fewest_that_are_enough_and_never_none():
    share = LOGITS.softmax(-1)[0]  # 0.644, 0.237, 0.087, 0.032
    for wanted, p in ((1, 0.5), (1, 0.64), (2, 0.65), (3, 0.9), (4, 0.99)):
        assert sum(left(Sampling(top_p=p))[0]) == wanted
    assert sum(left(Sampling(top_p=1e-9))[0]) == 1
    assert left(Sampling(top_p=1.0)) == [[True] * 4] * 2
    exact = float(share[0])
    assert sum(left(Sampling(top_p=exact), LOGITS)[0]) == 1
    assert sum(left(Sampling(top_p=0.5), torch.zeros(1, 4))[0]) == 2


def test_top_p_looks_at_what_top_k_and_the_temperature_left():
    assert sum(left(Sampling(top_k=2, top_p=0.9))[0]) == 2  # of the two, the first has 0.73
    assert sum(left(Sampling(top_k=2, top_p=0.7))[0]) == 1
    assert [sum(left(Sampling(top_p=0.74, temperature=heat))[0]) for heat in (0.5, 1.0, 2.0)] == [1, 2, 3]


def test_temperature_divides_logits_and_0_is_greedy():
    torch.testing.assert_close(Sampling(temperature=0.5).narrowed(LOGITS).softmax(-1), (LOGITS / 0.5).softmax(-1))
    assert left(Sampling(temperature=0)) == [[True, False, False, False], [False, False, True, False]]
    tiny = Sampling(temperature=1e-40).narrowed(LOGITS * 1e4).softmax(-1)
    torch.testing.assert_close(tiny, torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, 0]]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.0},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* but .* was given"):
        Sampling(**wrong)


def test_draws_follow_the_probabilities():
    rows = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log().expand(4, -1)
    counts = torch.zeros(4)
    for step in sample(Table(rows), torch.zeros(2000, 1).long(), tokens=2, sampling=Sampling(seed=3)):
        counts += torch.bincount(torch.tensor(step), minlength=4)
    assert counts[3] == 0
    torch.testing.assert_close(counts / 4000, torch.tensor([0.5, 0.25, 0.25, 0.0]), atol=0.03, rtol=0)


def test_the_seed_alone_decides_and_a_text_does_not_depend_on_others_that_end():
    rows = torch.zeros(8, 8)
    prompt = torch.zeros(5, 1).long()

    def written(seed, stop=()):
        torch.rand(7)  # draws by others change nothing
        return list(sample(Table(rows), prompt, tokens=12, sampling=Sampling(seed=seed), stop=stop))

    whole = written(1)
    assert whole == written(1) != written(2)
    ended = written(1, stop=[0])
    for text in range(5):
        alone = [step[text] for step in whole]
        until = alone.index(0) if 0 in alone else len(alone)
        got = [step[text] for step in ended]
        assert got[:until] == alone[:until]
        assert all(token is None for token in got[until:])


def test_ended_texts_leave_the_decoder_and_all_ended_ends():
    rows = torch.full((4, 4), -9.0)
    rows[0, 1] = rows[1, 2] = rows[2, 3] = rows[3, 3] = 9.0  # 0 -> 1 -> 2 -> 3
    table = Table(rows)
    steps = list(sample(table, torch.tensor([[0], [1]]), tokens=9, sampling=Sampling(temperature=0), stop=[3]))
    assert steps == [[1, 2], [2, None]]
    assert [order.tolist() for order in table.orders] == [[0]]
    assert [len(taken) for taken in table.taken] == [2, 2, 1]


def test_the_first_call_takes_the_prompt_and_the_last_token_is_not_read():
    table = Table(torch.eye(4) * 9)
    list(sample(table, torch.tensor([[1, 2, 3]]), tokens=3, sampling=Sampling(temperature=0)))
    assert [tuple(taken.shape) for taken in table.taken] == [(1, 3), (1, 1), (1, 1)]


def test_forbidden_tokens_are_never_written():
    rows = torch.tensor([[0.0, 50.0, 0.0]]).expand(3, -1)
    steps = list(sample(Table(rows), torch.zeros(50, 1).long(), tokens=4, sampling=Sampling(), forbidden=[1]))
    assert {token for step in steps for token in step} == {0, 2}


def test_repetition_penalty_counts_the_prompt_and_both_signs():
    rows = torch.tensor([[3.0, 2.9, -1.0, -1.05]]).expand(4, -1)
    greedy = Sampling(temperature=0, repetition_penalty=1.2)
    assert list(sample(Table(rows), torch.tensor([[0]]), tokens=1, sampling=greedy)) == [[1]]
    weaker = greedy.penalised(rows[:1], torch.tensor([[True, False, True, False]]))
    torch.testing.assert_close(weaker, torch.tensor([[2.5, 2.9, -1.2, -1.05]]))
    assert torch.equal(Sampling().penalised(rows, rows > 0), rows)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ShapeError, match="one token or more"):
        next(sample(Table(LOGITS), torch.zeros(1, 0).long(), tokens=1, sampling=Sampling()))
