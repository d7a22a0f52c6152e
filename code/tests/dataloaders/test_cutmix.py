"""The box mask: how large, where, and from which generator."""
import numpy as np
import pytest
import torch

from dataloaders.cutmix import zero_centered_mask


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def box_of(mask):
    """(start, stop) of the zeros along each axis."""
    zeros = np.argwhere(mask.numpy() == 0)
    return [(int(low), int(high) + 1) for low, high in zip(zeros.min(0), zeros.max(0), strict=True)]


@pytest.mark.parametrize(("size", "beta", "box"), [
    ((112, 112, 80), 2 / 3, (74, 74, 53)), ((256, 256), 1 / 2, (128, 128)), ((96, 96, 96), 2 / 3, (64, 64, 64)),
    ((9, 7), 0.5, (4, 3)), ((11,), 0.9, (9,)),
])
def test_zeros_fill_one_box_of_beta_times_the_extent_and_ones_the_rest(size, beta, box):
    for seed in range(5):
        mask = zero_centered_mask(size, beta, seeded(seed))
        assert mask.shape == size and mask.dtype == torch.float32
        assert tuple(stop - start for start, stop in box_of(mask)) == box
        assert (mask == 0).sum() == np.prod(box) and (mask == 1).sum() == np.prod(size) - np.prod(box)


def test_offsets_cover_the_range_evenly_and_never_reach_its_end():
    draws, generator = 1200, seeded(1)
    corners = [[start for start, _ in box_of(zero_centered_mask((8, 10), 0.5, generator))] for _ in range(draws)]
    for axis, free in enumerate((4, 5)):            # extent - box; the offset `free` itself is left out
        seen = np.bincount([corner[axis] for corner in corners])
        assert len(seen) == free
        assert np.abs(seen - draws / free).max() < 5 * np.sqrt(draws / free)
    assert len({tuple(corner) for corner in corners}) == 4 * 5      # each axis by itself


def test_one_seed_one_mask():
    one, again, other = (zero_centered_mask((32, 32), 0.5, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_generator_draws_a_fresh_mask_each_time_and_spares_the_global_one():
    state, generator = torch.get_rng_state(), seeded(0)
    masks = [zero_centered_mask((64, 64), 0.5, generator) for _ in range(2)]
    assert not torch.equal(*masks)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("beta", [0, 1, -0.5, 1.5])
def test_a_box_without_size_or_without_surroundings_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta is {beta:g}"):
        zero_centered_mask((8, 8), beta)
