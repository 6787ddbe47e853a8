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
