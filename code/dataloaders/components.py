"""Largest components of label maps, which the paper calls NMS."""
import cc3d
import numpy as np


def largest_component(label_map, classes=True):
    """Keep each class's largest component, full connectivity (26 in 3D, 8 in 2D); (*S) ints -> the same, NumPy.

    A tie goes to the component with the first voxel in C order; an empty class stays empty. The paper calls it
    NMS; connectivity as the authors' release. classes: True for all, or those to do so for; the others stay.
    """
    label_map = np.ascontiguousarray(label_map)
    # numbered in the order of their first voxels, so that a stable sort settles ties
    components = cc3d.connected_components(label_map, connectivity=26 if label_map.ndim == 3 else 8)
    places = np.flatnonzero(label_map != 0)
    numbers, labels = components.ravel()[places], label_map.ravel()[places]
    sizes = np.bincount(numbers, minlength=1)
    class_of = np.zeros(len(sizes), label_map.dtype)
    class_of[numbers] = labels
    by_size = np.argsort(-sizes, kind="stable")
    keep = np.zeros(len(sizes), bool)
    keep[by_size[np.unique(class_of[by_size], return_index=True)[1]]] = True
    if classes is not True:
        keep |= ~np.isin(class_of, classes)
    kept, chosen = np.zeros_like(label_map), keep[numbers]
    kept.ravel()[places[chosen]] = labels[chosen]
    return kept


def largest_components(label_maps, classes=True):
    """`largest_component` of each map of a tensor (views, B, *S) of up to 256 classes; same dtype and device.

    classes: as in `largest_component`. One transfer to the host and one back, one byte per voxel. Maps in pinned memory
    give a result in pinned memory, so that the host does not wait while it is copied to a GPU.
    """
    import torch  # here: options are read without PyTorch

    host = label_maps.to(torch.uint8).cpu()
    kept = torch.empty(host.shape, dtype=torch.uint8, pin_memory=host.is_pinned())
    for index in np.ndindex(host.shape[:2]):
        kept.numpy()[index] = largest_component(host[index].numpy(), classes)
    return kept.to(label_maps.device).to(label_maps.dtype)


def reduced(label_maps, classes=True):
    """Start copying label maps (views, B, *S) to the host -> function that returns their `largest_components`.

    The result is on the maps' device. What a GPU is given to do between the two calls runs while the host looks for
    components. The maps stay as they are where `classes` is empty or False.
    """
    if not classes:
        return lambda: label_maps
    from runtime.device import fetch
    fetched = fetch(label_maps)
    return lambda: largest_components(fetched(), classes).to(label_maps.device, non_blocking=True)


def empty(*label_maps):
    """How many of the label maps (B, *S) have no foreground -> scalar tensor."""
    return sum((labels.flatten(1) == 0).all(1).sum() for labels in label_maps)
