"""The two streams: a pure function of (seed, stage, step, slot), whoever asks and in whatever order."""
import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloaders import two_stream
from dataloaders.scans import Scan
from dataloaders.two_stream import TwoStream, torch_seed
from runtime.ranks import Ranks


def scans(count, first=0):
    return [Scan(f"case{i}", torch.full((1, 4, 4), float(i)), torch.full((4, 4), 200 + i, dtype=torch.uint8))
            for i in range(first, first + count)]


def sample(scan, rng):
    """The scan's number plus noise below a half: names and random numbers show in the batch."""
    return scan.image.numpy() + 0.49 * rng.random((1, 4, 4), dtype=np.float32), scan.label.numpy()


def streams(labelled=5, unlabelled=7, sizes=(2, 3), seed=1, stage=0, ranks=None, changed=None):
    return TwoStream(scans(labelled), scans(unlabelled, 10), sample, sizes, seed, stage, ranks, changed=changed)


def same(one, other):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_items_do_not_depend_on_the_order_they_are_asked_for():
    one, other = streams(), streams()
    forward = {step: one[step] for step in range(8)}
    assert all(same(forward[step], other[step]) for step in (7, 0, 3, 3, 5, 1, 6, 2, 4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")     # more workers than cores
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_loads_the_same_steps(workers):
    expected = [streams()[step] for step in range(2, 8)]
    loaded = list(streams().batches(2, 8, workers))
    assert len(loaded) == 6 and all(same(a, b) for a, b in zip(expected, loaded, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("steps", "local_world", "fitting"), [
    (100, 1, 3), (8, 1, 3), (7.9, 1, 2), (6, 1, 2), (4, 1, 1), (3.9, 1, 0), (0, 1, 0), (8, 2, 1)])
def test_there_are_no_more_loader_processes_than_shared_memory_for_their_steps(monkeypatch, capsys, tmp_path, steps,
                                                                               local_world, fitting):
    """A process that has none loses what it drew, and the run would wait for ever."""
    own = streams()
    size = sum(part.nbytes + mmap.PAGESIZE for part in own[2] if part is not None)
    monkeypatch.setattr(two_stream, "SHARED", tmp_path)
    monkeypatch.setattr(two_stream.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(steps * size)))
    own.ranks.local_world = local_world
    loader = own.batches(2, 8, 3)
    assert loader.num_workers == fitting and loader.timeout == 600 * (fitting > 0)
    assert (f"{fitting} in place of 3 loader processes" in capsys.readouterr().out) == (fitting < 3)
    assert own.batches(2, 8, 0).num_workers == 0


@pytest.mark.parametrize("other", [{"seed": 2}, {"stage": 1}])
def test_seed_and_stage_change_the_draws(other):
    assert not same(streams()[0], streams(**other)[0])


def test_batches_have_the_asked_sizes_and_types():
    x_l, y_l, x_u, z_l, clean_u = streams()[0]
    assert z_l is None and clean_u is None
    assert (x_l.shape, y_l.shape, x_u.shape) == ((2, 1, 4, 4), (2, 4, 4), (3, 1, 4, 4))
    assert (x_l.dtype, y_l.dtype, x_u.dtype) == (torch.float32, torch.uint8, torch.float32)


def test_labels_of_the_unlabelled_stream_are_not_yielded():
    item = streams(changed=lambda image, rng: -image)[0]
    parts = [part for part in item if part is not None]
    assert len(parts) == 4 and not any((part >= 210).any() for part in parts)   # 200 + 10, ...: the unlabelled ones'
    item = streams()[0]
    assert (item[1] == 200 + item[0][:, 0].floor()).all()                       # the labelled ones' are their own


def test_each_epoch_shows_every_case_once_in_a_new_order():
    loader = streams(labelled=4, unlabelled=6, sizes=(2, 3))
    epochs = [sum((loader.names(step)[0] for step in (2 * e, 2 * e + 1)), []) for e in range(6)]
    assert all(sorted(epoch) == ["case0", "case1", "case2", "case3"] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    seen = sum((loader.names(step)[1] for step in (0, 1)), [])
    assert sorted(seen) == [f"case{i}" for i in range(10, 16)]


def test_an_epoch_may_end_within_a_batch():
    loader = streams(labelled=3, sizes=(2, 1))
    order = sum((loader.names(step)[0] for step in range(3)), [])
    assert sorted(order[:3]) == sorted(order[3:]) == ["case0", "case1", "case2"]


def test_a_stream_shorter_than_its_batch_repeats_cases_with_fresh_draws():
    x_l, _, x_u, *_ = streams(labelled=1, unlabelled=2, sizes=(3, 5))[0]
    assert x_l.floor().unique().tolist() == [0.0] and x_u.floor().unique().tolist() == [10.0, 11.0]
    assert len(x_l.unique(dim=0)) == 3 and len(x_u.unique(dim=0)) == 5


def test_the_streams_share_no_random_numbers():
    x_l, _, x_u, *_ = streams(sizes=(3, 3))[0]
    assert not torch.isclose(x_l.frac(), x_u.frac()).all(dim=(1, 2, 3)).any()


def test_names_tell_which_cases_a_step_shows():
    loader = streams(sizes=(4, 6))
    for step in range(4):
        x_l, _, x_u, *_ = loader[step]
        shown = [[f"case{int(image.min())}" for image in x] for x in (x_l, x_u)]
        assert tuple(shown) == loader.names(step)


def test_without_unlabelled_scans_there_is_no_second_stream():
    loader = streams(unlabelled=0)
    assert loader[0][2] is None and loader.names(0)[1] == []
    assert next(iter(loader.batches(0, 1)))[2] is None


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_in_whole_pairs(world):
    """Rank by rank: firsts of the batch's pairs (i, i + size / 2), then their seconds; together, the batch."""
    sizes = (6, 12) if world == 3 else (4, 8)
    for step in range(3):
        whole, parts = streams(sizes=sizes)[step], []
        for rank in range(world):
            ranks = Ranks()
            ranks.rank, ranks.world = rank, world
            loader = streams(sizes=sizes, ranks=ranks)
            parts.append(loader[step])
            assert loader.names(step) == streams(sizes=sizes).names(step)
        for stream, size in enumerate((sizes[0], sizes[0], sizes[1])):
            pairs = {(first.sum().item(), second.sum().item())
                     for part in parts for first, second in zip(*part[stream].chunk(2), strict=True)}
            expected = whole[stream]
            assert pairs == {(expected[i].sum().item(), expected[i + size // 2].sum().item())
                             for i in range(size // 2)}
            assert all(len(part[stream]) == size // world for part in parts)


def test_changed_intensities_come_with_the_unlabelled_patches_before_them():
    plain, other = streams()[3], streams(changed=lambda image, rng: image - 100 * rng.random())[3]
    assert torch.equal(other.clean_u, plain.x_u) and torch.equal(other.y_l, plain.y_l)
    for one, two in ((plain.x_l, other.x_l), (plain.x_u, other.x_u)):
        assert len((one - two).mean((1, 2, 3)).unique()) == len(one)            # a draw for each patch


def test_torch_seeds_differ_by_key_and_repeat():
    keys = [(kind, 1337, stage, step) for kind in (2, 3) for stage in (0, 1) for step in range(50)]
    assert len({torch_seed(*key) for key in keys}) == len(keys)
    assert torch_seed(*keys[0]) == torch_seed(*keys[0])
    torch.Generator().manual_seed(torch_seed(*keys[0]))


def test_items_leave_the_global_generators_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    streams()[3]
    assert torch.equal(torch_state, torch.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()
