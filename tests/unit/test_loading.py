from dataclasses import dataclass

import pytest
import torch

from toolkit.batches import Batch
from toolkit.loading import EpochLoader, HeldLoader, deal, epoch_seed, num_steps


@dataclass(kw_only=True)
class Drawn(Batch):
    seed: int


def make(items, total, seed):
    return Drawn(target=items, total=total, seed=seed)


def loader(items=20, **options):
    return EpochLoader(torch.arange(items), make, **{"batch_size": 3, "shuffle": True, **options})


def walk(found):
    return [(batch.target.tolist(), batch.total, batch.seed) for batch in found]


@pytest.mark.parametrize(("items", "size", "processes"), [(140, 64, 1), (140, 64, 2), (7, 2, 3), (5, 1, 2), (3, 8, 2)])
def test_dealing_gives_each_item_once_in_equally_many_steps(items, size, processes):
    shares = [deal(torch.arange(items), size, rank, processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {num_steps(items, size, processes)}
    seen = torch.cat([mine for share in shares for mine, _ in share])
    assert sorted(seen.tolist()) == list(range(items))
    for step in zip(*shares, strict=True):
        assert max(len(mine) for mine, _ in step) <= size
        assert {total for _, total in step} == {sum(len(mine) for mine, _ in step)}


def test_epoch_seeds_follow_the_runs_seed_and_differ_by_place():
    torch.manual_seed(3)
    here = [epoch_seed(epoch, step, rank) for epoch in range(4) for step in range(4) for rank in range(4)]
    assert len(set(here)) == 64
    torch.rand(5)
    assert epoch_seed(1, 2, 3) == here[16 + 8 + 3]
    torch.manual_seed(4)
    assert epoch_seed(1, 2, 3) != here[16 + 8 + 3]
    assert all(0 <= seed < 2**63 for seed in here)


def test_epochs_differ_and_an_epoch_repeats():
    torch.manual_seed(0)
    found = loader()
    first = walk(found)
    found.set_epoch(1)
    second = walk(found)
    assert sorted(item for items, _, _ in first for item in items) == list(range(20))
    assert first != second
    torch.rand(7)
    again = loader()
    assert walk(again) == first


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_where_its_state_says(workers):
    torch.manual_seed(0)
    whole = walk(loader())
    broken = loader(workers=workers)
    left = iter(broken)
    seen = walk([next(left), next(left)])
    rest = loader(workers=workers)
    rest.load_state_dict(broken.state_dict())
    assert seen + walk(rest) == whole
    assert walk(rest) == whole  # once only


def test_the_state_of_a_finished_or_other_epoch_is_no_place_to_start():
    torch.manual_seed(0)
    found = loader()
    whole = walk(found)
    found.load_state_dict(found.state_dict())
    assert walk(found) == whole
    found.load_state_dict({"epoch": 3, "position": 2})
    assert walk(found) == whole


def test_a_loader_left_halfway_starts_at_the_beginning_next_time():
    torch.manual_seed(0)
    found = loader()
    next(iter(found))
    assert walk(found) == walk(loader())


def test_in_order_without_shuffling():
    assert [items for items, _, _ in walk(loader(items=7, shuffle=False))] == [[0, 1, 2], [3, 4], [5, 6]]


def test_drawing_a_loader_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader(workers=1))
    assert torch.equal(torch.rand(3), expected)


def test_held_batches_are_the_same_objects():
    batches = [make(torch.arange(2), 2, 0), make(torch.arange(2), 2, 1)]
    held = HeldLoader(batches)
    assert len(held) == 2
    for _ in range(2):
        assert all(found is batch for found, batch in zip(held, batches, strict=True))


# Lengths ------------------------------------------------------------------------------------------------------------


def by_length(share=(0, 1), epoch=3):
    torch.manual_seed(7)
    lengths = torch.randint(1, 300, (1003,), generator=torch.Generator().manual_seed(1))
    items = torch.arange(5000, 6003)  # lengths are those of the items' places, not of their numbers
    loader = EpochLoader(
        items, lambda chosen, *_: chosen.tolist(), batch_size=8, shuffle=True, share=share, lengths=lengths
    )
    loader.set_epoch(epoch)
    return loader, lengths


def test_items_of_similar_length_share_a_step_and_steps_come_in_any_order():
    loader, lengths = by_length()
    spans = [(min(each), max(each)) for batch in loader if (each := [int(lengths[item - 5000]) for item in batch])]
    assert sum(high - low for low, high in spans) / len(spans) < 30  # of 300: without lengths some 230
    assert [low for low, _ in spans] != sorted(low for low, _ in spans)
    assert list(by_length()[0]) == list(by_length()[0]) != list(by_length(epoch=4)[0])


def test_sorted_steps_go_on_in_mid_epoch_and_are_shared_exactly():
    whole = list(by_length()[0])
    begun, _ = by_length()
    batches = iter(begun)
    for _ in range(10):
        next(batches)
    resumed, _ = by_length()
    resumed.load_state_dict(begun.state_dict())
    assert list(resumed) == whole[10:]
    shares = [list(by_length((rank, 3))[0]) for rank in range(3)]
    assert {len(share) for share in shares} == {len(by_length((0, 3))[0])}
    assert sorted(item for share in shares for batch in share for item in batch) == list(range(5000, 6003))


# Steps by the tokens they hold ---------------------------------------------------------------------------------------


def by_tokens(shuffle=True, share=(0, 1), columns=1, **options):
    chance = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 40, (97, columns), generator=chance)
    found = EpochLoader(
        torch.arange(97),
        make,
        batch_size=16,
        batch_tokens=120,
        shuffle=shuffle,
        share=share,
        lengths=lengths[:, 0] if columns == 1 else lengths,
        **options,
    )
    return found, lengths


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_no_step_holds_more_tokens_than_it_may(columns, processes):
    torch.manual_seed(0)
    loaders = [by_tokens(share=(rank, processes), columns=columns)[0] for rank in range(processes)]
    lengths = by_tokens(columns=columns)[1]
    for epoch in range(3):
        for each in loaders:
            each.set_epoch(epoch)
        walks = [[batch.target for batch in each] for each in loaders]
        assert {len(steps) for steps in walks} == {len(loaders[0])}
        assert sorted(torch.cat([items for steps in walks for items in steps]).tolist()) == list(range(97))
        for items in (items for steps in walks for items in steps if len(items)):
            assert len(items) <= 16
            assert len(items) == 1 or len(items) * int(lengths[items].max()) <= 120


def test_most_of_what_a_step_may_hold_is_used():
    torch.manual_seed(0)
    found, lengths = by_tokens()
    waste = 1 - int(lengths.sum()) / sum(len(each.target) * int(lengths[each.target].max()) for each in found)
    assert waste < 0.08  # in arbitrary order it is 0.38
    assert len(found) < 97 * 20 / 120 * 1.3


def test_steps_by_tokens_differ_from_epoch_to_epoch_and_go_on_where_they_were():
    torch.manual_seed(0)
    found, _ = by_tokens()
    first = walk(found)
    found.set_epoch(1)
    assert sorted(map(str, walk(found))) != sorted(map(str, first))
    found.set_epoch(0)
    left = iter(found)
    seen = walk([next(left), next(left)])
    rest, _ = by_tokens()
    rest.load_state_dict(found.state_dict())
    assert seen + walk(rest) == first


def test_one_item_longer_than_a_step_may_be_stands_alone():
    lengths = torch.tensor([300, 2, 2, 2])
    found = EpochLoader(torch.arange(4), make, batch_size=8, batch_tokens=10, lengths=lengths)
    assert [batch.target.tolist() for batch in found] == [[1, 2, 3], [0]]


def test_the_total_is_what_the_items_count_for():
    counts = torch.tensor([5, 1, 2, 7])
    loaders = [EpochLoader(torch.arange(4), make, batch_size=1, share=(rank, 2), counts=counts) for rank in (0, 1)]
    for steps in zip(*loaders, strict=True):
        assert {batch.total for batch in steps} == {sum(int(counts[batch.target].sum()) for batch in steps)}


def test_tokens_of_a_step_want_lengths():
    with pytest.raises(ValueError, match="batch_tokens=5 wants"):
        EpochLoader(torch.arange(4), make, batch_size=1, batch_tokens=5)
