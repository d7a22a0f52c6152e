"""Synthetic scans in the files, lists and class layout of LA, ACDC and BraTS2019, for tests and the demo.

Source: ours. Anatomy is built of ellipsoids and tubes; no scan is copied or learnt from, and a score on
phantoms says nothing about patients. A case depends on (seed, dataset, its number) alone, not on how many
are written. *S is (X, Y, Z), or (slices, H, W) for ACDC. Space runs over [-1, 1] along each axis whatever the
extent, so that small phantoms show what large ones do; [-1, 1] / `zoom` in a closer view. `clutter` is the share that
is drawn of what resembles the target, `noise` the strength of texture, gain drift and noise. A shape's *level* is < 1
inside it.
"""
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

CASE_NUMBERS = {"train": range(1, 701), "val": range(701, 801), "test": range(801, 1000)}
NOTE = "PHANTOM.md"    # marks a folder as synthetic; where lists stand without it, nothing is written


def smooth_field(rng, shape, waves):
    """Random cosine series of up to `waves` half-periods per axis -> (*S) float32, mean 0, deviation 1."""
    field = rng.standard_normal((waves,) * len(shape), dtype=np.float32)
    k = np.arange(1, waves + 1)
    for extent in shape:    # each turn contracts the first axis and appends the finished one
        angle = np.outer(np.linspace(0, np.pi, extent), k) + rng.uniform(0, 2 * np.pi, waves)
        field = np.tensordot(field, (np.cos(angle) / np.sqrt(k)).astype(np.float32), axes=(0, 1))
    return (field - field.mean()) / (field.std() + 1e-6)


def warped_grid(rng, shape, amount, zoom):
    """Coordinates in [-1, 1] / zoom, each bent smoothly by about `amount` -> one (*S) float32 array per axis."""
    ends = -1 / zoom, 1 / zoom
    axes = np.meshgrid(*(np.linspace(*ends, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    return [axis + np.float32(amount / zoom) * smooth_field(rng, shape, 3) for axis in axes]


def ellipsoid(space, centre, radii, turn=0.0):
    """Level of an ellipsoid turned by `turn` radians in the plane of the first two axes -> (*S)."""
    first, second, *rest = (x - np.asarray(c, np.float32) for x, c in zip(space, centre, strict=True))
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    turned = (cos * first + sin * second, cos * second - sin * first, *rest)
    return np.sqrt(sum((x / np.asarray(r, np.float32)) ** 2 for x, r in zip(turned, radii, strict=True)))


def tube(space, start, end, radius):
    """Level of a round-ended tube from point `start` to point `end` -> (*S)."""
    start, way = np.float32(start), np.float32(end) - np.float32(start)
    offset = [x - s for x, s in zip(space, start, strict=True)]
    along = np.clip(sum(o * w for o, w in zip(offset, way, strict=True)) / (way @ way), 0, 1)
    return np.sqrt(sum((o - along * w) ** 2 for o, w in zip(offset, way, strict=True))) / np.float32(radius)


def acquire(rng, image, blur, bias, noise):
    """Partial volume (sigma `blur` in voxels), gain drift, Rician noise and contrast, on (*S) -> (*S)."""
    image = gaussian_filter(image, blur) * np.exp(np.float32(bias) * smooth_field(rng, image.shape, 2))
    real, imaginary = np.float32(noise) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + real, imaginary) ** np.float32(rng.uniform(0.8, 1.25))


def draw_LA(rng, shape, zoom=1, clutter=1, noise=1):
    """Left atrium in late-enhancement MRI -> image (X, Y, Z) float32, label (X, Y, Z) uint8 in {0, 1}.

    Y runs from front to back, Z upwards. Ventricles, right atrium and great vessels hold the same blood.
    """
    u = rng.uniform
    space = warped_grid(rng, shape, 0.09, zoom)
    blood, tissue, lung = u((0.6, 0.15, 0.02), (1.0, 0.35, 0.1))
    x, y, z = centre = u((-0.15, -0.05, -0.2), (0.15, 0.25, 0.1))
    rx, ry, rz = radii = u((0.4, 0.3, 0.45), (0.6, 0.45, 0.65))
    turn = u(-0.35, 0.35)
    body = ellipsoid(space, centre, radii, turn)
    lobe = ellipsoid(space, centre + u(-0.45, 0.45, 3) * radii, radii * u(0.6, 0.9, 3), turn + u(-0.5, 0.5))
    atrium = np.minimum(body, lobe)
    tip = (x + rx + 0.1, y - ry - u(0, 0.2), z + u(0, 0.5))
    appendage = tube(space, (x + 0.7 * rx, y - 0.5 * ry, z), tip, 0.13)

    image = np.float32(tissue) * (1 + 0.25 * noise * smooth_field(rng, shape, 9))
    for side in (-1, 1):
        wing = ellipsoid(space, (1.1 * side, u(0.3, 0.7), 0), u((0.45, 0.5, 1.0), (0.75, 0.9, 2.0)))
        image[wing < 1] = lung
    image[ellipsoid(space, (u(-0.3, 0.1), 1.15, 0), (0.35, 0.4, 9)) < 1] = lung     # spine
    image[(smooth_field(rng, shape, 14) > 2.2) & (image < 1.5 * lung)] = 0.7 * blood
    belly = u((0, -1.1, -1.1, 0.6, 0.6, 0.5), (0.5, -0.8, -0.6, 1.0, 0.9, 0.9))
    pool = [    # ventricles, right atrium, aorta up and down, lung artery
        ellipsoid(space, belly[:3], belly[3:], u(-0.5, 0.5)),
        ellipsoid(space, (x - rx - 0.3, y - ry - u(0, 0.3), z - 0.3), u(0.3, 0.5, 3)),
        tube(space, u((-0.3, -0.8, -0.2), (0.1, -0.5, 0.2)), (u(-0.3, 0.2), -0.6, 1), u(0.17, 0.26)),
        tube(space, (u(0.1, 0.4), u(0.8, 0.95), -1.2), (u(0.1, 0.4), 0.85, 1.2), u(0.14, 0.2)),
        tube(space, u((-0.9, -0.2, 0.8), (-0.5, 0.3, 1.1)), (u(0.4, 0.9), -0.6, 1), u(0.13, 0.2)),
    ]
    for level in pool[:round(clutter * len(pool))]:
        image[level < 1] = blood * u(0.8, 1.1)
    image[np.minimum(atrium / 1.13, appendage / 1.25) < 1] = tissue * u(0.8, 1.6)     # thin wall
    label = (atrium < 1) | (appendage < 1)
    for side in (-1, 1):
        for height in (u(0.0, 0.25), u(0.4, 0.7)):
            mouth = np.array((x + 0.5 * side * rx, y + 0.2 * ry, z + height * rz))
            far = mouth + (side * u(0.6, 1.1), u(0.0, 0.6), u(-0.1, 0.5))
            vein = tube(space, mouth, far, u(0.08, 0.13)) < 1
            image[vein] = blood
            label |= vein & (body < u(1.35, 1.6))       # readers stop some way along a vein that goes on
    image[label] = blood
    image = acquire(rng, image, u(0.5, 0.9), noise * u(0.05, 0.2), noise * u(0.03, 0.1))
    # The real set's mean and deviation come from the whole scan, of which a file is the brighter middle.
    dark = image[image < np.median(image)]
    whole = np.concatenate([image.ravel(), np.tile(dark, rng.integers(1, 6))])
    return (image - whole.mean()) / whole.std(), label.astype(np.uint8)


def draw_ACDC(rng, shape, frame=1, zoom=1, clutter=1, noise=1):
    """Short-axis cine MRI, base first -> image (slices, H, W) float32 in [0, 1], label (slices, H, W) uint8.

    1 right ventricle, 2 muscle, 3 left ventricle. `frame` 1 is relaxed, 2 contracted: equally seeded
    generators give both frames of one patient. The first slice may show no ventricle, the last muscle alone.
    """
    u, slices = rng.uniform, shape[0]
    _, *plane = warped_grid(rng, shape, 0.05, zoom)
    y, x = plane = [c * np.float32(n / min(shape[1:])) for c, n in zip(plane, shape[1:], strict=True)]
    depth = 1.1 * (np.arange(slices).reshape(-1, 1, 1) + u(-0.3 if slices > 1 else 0.1, 0.6)) / slices
    depth = depth.astype(np.float32)        # 0 base, 1 tip of the left ventricle
    space = (y, x, np.broadcast_to(depth, shape))
    air, lung, muscle, liver = u((0.01, 0.04, 0.13, 0.15), (0.04, 0.1, 0.26, 0.38))
    blood, fat = u((0.4, 0.45), (0.65, 0.95))

    image = np.full(shape, air, np.float32)
    trunk = ellipsoid(plane, u(-0.1, 0.1, 2), u((0.9, 0.75), (1.2, 0.95)), u(-0.3, 0.3))
    image[trunk < 1] = fat
    image[trunk < u(0.8, 0.92)] = liver
    chest = ellipsoid(plane, u((-0.35, 0.1), (-0.1, 0.35)), u((0.4, 0.4), (0.6, 0.55)), u(-1, 1))
    image[chest < 1] = lung
    for _ in range(round(clutter * rng.integers(10, 16))):      # vessels, stomach, kidneys: some bright, some ringed
        where, radii = u((-0.8, -0.7, 0), (0.8, 0.7, 1)), u((0.04, 0.04, 0.3), (0.2, 0.2, 1.2))
        spot = ellipsoid(space, where, radii, u(0, 3))
        spot[trunk > 0.85] = 9
        image[spot < u(0.8, 1.4)] = u(0.8, 1.3) * muscle
        image[spot < 1] = u(0.3, 1.3) * blood
    image *= 1 + 0.2 * noise * smooth_field(rng, shape, 10)

    drift = u(-0.06, 0.06, (2, 1, 1, 1)) * depth
    drift = drift + rng.normal(0, 0.012, (2, slices, 1, 1))     # every slice has its own breath-hold
    cy, cx = centre = u((-0.25, -0.1), (0.25, 0.25)).reshape(2, 1, 1, 1) + drift
    inner, wall, across, tall = u((0.16, 0.06, 0.6, 1.0), (0.24, 0.1, 0.85, 1.35))
    reach, turn, squeeze = inner + wall, u(-0.6, 0.6), u((0.55, 1.2, 0.65), (0.75, 1.5, 0.85))
    if frame == 2:
        inner, wall, across, tall = np.array((inner, wall, across, tall)) * squeeze[[0, 1, 2, 2]]
    inside = (depth > 0) & (depth < 1.06)

    def radius(full, end):      # 1e-3 stands for nothing: far below a voxel
        return np.maximum(full * np.sqrt(np.clip(1 - (depth / end) ** 2, 0, 1)) * inside, 1e-3)

    cavity, side = radius(inner, 1), radius(reach, u(0.8, 0.95))
    left = ellipsoid(plane, centre, (cavity, cavity * u(0.85, 1.0)), u(0, 3))
    outer = ellipsoid(plane, centre, 2 * [np.maximum((cavity + wall) * inside, 1e-3)])
    beside = (cy + side * np.sin(turn), cx - side * np.cos(turn))
    right = ellipsoid(plane, beside, (tall * side, across * side), turn)
    label = np.select([left < 1, outer < 1, right < 1], [np.uint8(3), np.uint8(2), np.uint8(1)], np.uint8(0))

    image[right < 1.12] = muscle
    above = ellipsoid(space, (cy, cx, -0.05), (reach, 1.3 * reach, 0.12), u(0, 3))
    image[above < 1] = blood              # atria: blood without a label
    for value, tone in ((1, blood * u(0.8, 1.05)), (2, muscle), (3, blood)):
        image[label == value] = tone
    strands = clutter * smooth_field(rng, shape, 16) > 1.7
    image[strands & (label % 2 == 1)] = 1.2 * muscle      # readers count papillary muscles as cavity
    scanner = rng.spawn(2)[frame - 1]           # the same patient, not the same noise
    image = acquire(scanner, image, (0, *2 * [u(0.5, 0.9)]), noise * u(0.1, 0.3), noise * u(0.012, 0.035))
    low, high = image.min(), np.quantile(image, 0.9995)
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32), label


def draw_BraTS(rng, shape, zoom=1, clutter=1, noise=1):
    """Brain with a tumour in FLAIR -> image (X, Y, Z) float32, label (X, Y, Z) uint8 in {0, 1}.

    Z-scored over the brain, exactly 0 outside. Cortex, old lesions and ventricle caps come near its tone.
    """
    u = rng.uniform
    space = warped_grid(rng, shape, 0.03, zoom)
    white, grey, fluid, tumour = u((0.4, 0.5, 0.1, 0.7), (0.48, 0.6, 0.25, 0.95))
    surface = ellipsoid(space, (0, 0, 0), u(0.85, 0.97, 3))
    brain = surface < 1
    folds = np.abs(smooth_field(rng, shape, 10))
    image = np.float32(white) * (1 + 0.06 * smooth_field(rng, shape, 5))
    image[(folds < 0.45) & (surface > 0.6)] = grey
    image[surface > u(0.88, 0.94)] = grey * u(1.0, 1.15)
    image[(folds < 0.13) & (surface > 0.65)] = fluid
    size, tilt = u((0.07, 0.3, 0.12), (0.14, 0.45, 0.22)), u(0.1, 0.3)
    for side in (-1, 1):
        ventricle = ellipsoid(space, (0.13 * side, 0, 0.1), size, tilt * side)
        image[ventricle < u(1.1, 1.5)] = tumour * u(0.8, 1.0)
        image[ventricle < 1] = fluid
    for _ in range(round(clutter * rng.integers(3, 8))):
        image[ellipsoid(space, u(-0.6, 0.6, 3), u(0.04, 0.13, 3), u(0, 3)) < 1] = tumour * u(0.8, 1.1)

    radii, way = u(0.25, 0.45, 3), rng.normal(size=3)
    centre = way / np.linalg.norm(way) * u(0.25, 0.6)
    bent = [c + 0.07 * smooth_field(rng, shape, 6) for c in space]
    mass = ellipsoid(bent, centre, radii, u(0, 3))
    for _ in range(2):
        near = centre + u(-0.8, 0.8, 3) * radii
        mass = np.minimum(mass, ellipsoid(bent, near, radii * u(0.4, 0.8, 3), u(0, 3)))
    label = (mass < 1) & brain
    swelling = tumour * (1 + 0.15 * smooth_field(rng, shape, 8))
    faded = np.clip((mass - 0.5) * u(0.6, 1.4), 0, 1)       # the rim melts into white matter
    image[label] = (swelling + (white - swelling) * faded)[label]
    if u() < 0.7:
        core = ellipsoid(bent, centre + u(-0.2, 0.2, 3) * radii, radii * u(0.25, 0.5))
        image[(core < 1) & label] = u(fluid, white)   # dead core: dark, yet tumour
    image = acquire(rng, image * brain, u(0.5, 0.9), noise * u(0.04, 0.14), noise * u(0.02, 0.06))
    return (image - image[brain].mean()) / image[brain].std() * brain, label.astype(np.uint8)


PHANTOMS = {    # default size; what is drawn of a case
    "LA": (136, {"": draw_LA}),
    "ACDC": (208, {"_frame01": draw_ACDC, "_frame02": partial(draw_ACDC, frame=2)}),
    "BraTS2019": (128, {"": draw_BraTS}),
}


def draw_case(dataset, number, size=None, seed=0, **ease):
    """One case (both frames of an ACDC patient) -> {name: (image, label)}, size as below. Source: ours."""
    default, frames = PHANTOMS[dataset]
    size, scans = size or default, {}
    for frame, draw in frames.items():
        rng = np.random.default_rng([seed, list(PHANTOMS).index(dataset), number])
        if np.ndim(size):
            shape = tuple(size)
        else:
            plane = [int(size * rng.uniform(1, 1.15)) for _ in range(2)]
            shape = {"LA": (*plane, size // 2), "BraTS2019": (*plane, size)}.get(dataset)
            shape = shape or (int(rng.integers(7, 12)), *plane)
        scans[f"patient{number:03}{frame}"] = draw(rng, shape, **ease)
    return scans


def write_scan(path, image, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = image
        if label is not None:
            file.create_dataset("label", data=label, compression="gzip")


def write_phantoms(root, dataset, train=8, val=0, test=4, size=None, seed=0, labels_for=None, progress=False, **ease):
    """Draw a data set into `root` (what --data-dir names), lists included -> Path of `root`. Source: ours.

    dataset            "LA", "ACDC" or "BraTS2019"
    train, val, test   cases; for ACDC patients, each with frame01 (relaxed) and frame02 (contracted);
                       LA has no validation list, so val must be 0
    size               int n: each case has in-plane extents of n to 1.15 n voxels; LA n // 2 slices, ACDC
                       7 to 11, BraTS2019 n. Three extents in file order: just these. None: near the real ones
    labels_for         None: every file has its `label`; N: of the training cases only the first N
    progress           show a bar
    ease               zoom, clutter, noise: 1 unless given; a closer view, less of what misleads, a better scanner

    Raises ValueError for an unknown dataset and for counts or sizes that cannot be, and FileExistsError where
    `root` has lists without the note that they are synthetic, lest real scans be overwritten.
    """
    if dataset not in PHANTOMS:
        raise ValueError(f"dataset {dataset!r}: not one of {', '.join(PHANTOMS)}")
    extents = np.sort(np.atleast_1d(size or PHANTOMS[dataset][0]))
    least = 32 if dataset == "ACDC" else 16     # in plane; below it a small class falls between the voxels
    if len(extents) not in (1, 3) or extents[0] < 1 or extents[-2:][0] < least:
        raise ValueError(f"size {size!r}: an int or three extents, in plane {least} voxels or more")
    root, suffix = Path(root), "txt" if dataset == "BraTS2019" else "list"
    counts = {"train": train, "val": val, "test": test}
    for split, count in counts.items():
        most = 0 if (dataset, split) == ("LA", "val") else len(CASE_NUMBERS[split])
        if not 0 <= count <= most:
            raise ValueError(f"{split}={count}: {dataset} takes 0 to {most}")
        if (root / f"{split}.{suffix}").exists() and not (root / NOTE).exists():
            raise FileExistsError(f"{root} has lists that are not of phantoms: choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    (root / NOTE).write_text(f"Synthetic {dataset} scans, size {size}, seed {seed}. No patient data.\n",
                             encoding="utf-8")

    lists = {split: [] for split in counts if (dataset, split) != ("LA", "val")}
    lists |= {"train_slices": []} if dataset == "ACDC" else {}
    cases = [(split, i) for split, count in counts.items() for i in range(count)]
    for split, i in tqdm(cases, desc=f"{dataset} phantoms", disable=not progress):
        labelled = split != "train" or labels_for is None or i < labels_for
        for name, (image, label) in draw_case(dataset, CASE_NUMBERS[split][i], size, seed, **ease).items():
            lists[split].append(name)
            file = f"2018LA_Seg_Training Set/{name}/mri_norm2.h5" if dataset == "LA" else f"data/{name}.h5"
            write_scan(root / file, image, label if labelled else None)
            if (dataset, split) == ("ACDC", "train"):
                for k in range(len(image)):
                    lists["train_slices"].append(f"{name}_slice_{k + 1}")
                    file = f"data/slices/{name}_slice_{k + 1}.h5"
                    write_scan(root / file, image[k], label[k] if labelled else None)
    for name, entries in lists.items():
        (root / f"{name}.{suffix}").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return root
