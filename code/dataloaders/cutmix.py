"""The box mask M of Section 3.2."""
import torch


def zero_centered_mask(size, beta, generator=None, device=None):
    """M of Eq. 5: ones around a box of zeros, `int(beta * extent)` voxels per side, at a uniformly random place.

    size (*S) -> (*S) float32 of {0, 1}. The box starts at [0, extent - box) along each axis: the paper calls
    the mask "zero-centered", the authors' release places the box anywhere. `generator` is a CPU torch.Generator;
    the mask is filled in on `device`, without a transfer.
    Raises ValueError unless 0 < beta < 1.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta is {beta:g}: the box must be smaller than the patch, 0 < beta < 1")
    mask = torch.ones(tuple(size), device=device)
    boxes = []
    for extent in size:
        box = int(beta * extent)
        start = int(torch.randint(0, extent - box, (), generator=generator))
        boxes.append(slice(start, start + box))
    mask[tuple(boxes)] = 0
    return mask
