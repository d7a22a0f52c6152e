"""Properties of the synthetic scans: layout, determinism, classes, intensities; they are not to be easy."""
import h5py
import numpy as np
import pytest

from dataloaders import phantom

SMALL = {"LA": (40, 40, 36), "ACDC": (3, 48, 48), "BraTS2019": (32, 32, 32)}
CLASSES = {"LA": {0, 1}, "ACDC": {0, 1, 2, 3}, "BraTS2019": {0, 1}}
every_dataset = pytest.mark.parametrize("dataset", SMALL)


def entries(root, name):
    return (root / name).read_text(encoding="utf-8").split()


def read(path):
    with h5py.File(path) as file:
        return {name: data[:] for name, data in file.items()}


def scans(dataset, numbers, size=None):
    """(image, label) of every volume of these cases."""
    return [scan for n in numbers for scan in phantom.draw_case(dataset, n, size or SMALL[dataset]).values()]


def best_band_dice(image, foreground):
    """Highest Dice of any `low <= image < high`, bounds from 32 quantiles of the voxels that are not 0."""
    edges = np.quantile(image[image != 0], np.linspace(0, 1, 33))[1:-1]
    bins = np.digitize(image, edges).ravel()
    hits, size = (np.append(0, np.bincount(bins, w, 32).cumsum()) for w in (foreground.ravel(), None))
    overlap, total = hits[:, None] - hits, size[:, None] - size + foreground.sum()
    return np.tril(2 * overlap / np.maximum(total, 1)).max()


@every_dataset
def test_layout_and_lists_are_complete(tmp_path, dataset):
    counts = {"train": 2, "test": 1} | ({} if dataset == "LA" else {"val": 1})
    root = phantom.write_phantoms(tmp_path / "set", dataset, size=SMALL[dataset], **counts)
    frames, suffix = 2 if dataset == "ACDC" else 1, "txt" if dataset == "BraTS2019" else "list"
    names = {split: entries(root, f"{split}.{suffix}") for split in counts}
    assert all(len(names[split]) == count * frames for split, count in counts.items())
    assert len(list(root.glob(f"*.{suffix}"))) == len(counts) + (dataset == "ACDC")
    listed = sum(names.values(), [])
    pattern = "2018LA_Seg_Training Set/{}/mri_norm2.h5" if dataset == "LA" else "data/{}.h5"
    files = {root / pattern.format(name): SMALL[dataset] for name in listed}
    if dataset == "ACDC":
        slices = entries(root, "train_slices.list")
        assert len(slices) == 2 * frames * SMALL[dataset][0]
        files |= {root / f"data/slices/{name}.h5": SMALL[dataset][1:] for name in slices}
    assert set(root.rglob("*.h5")) == set(files) and len(set(listed)) == len(listed)
    for path, shape in files.items():
        scan = read(path)
        assert {name: (data.shape, data.dtype) for name, data in scan.items()} == {
            "image": (shape, np.float32), "label": (shape, np.uint8)}


def test_slices_are_the_volume(tmp_path):
    root = phantom.write_phantoms(tmp_path, "ACDC", train=1, test=0, size=SMALL["ACDC"])
    volume = read(root / "data/patient001_frame02.h5")
    for name, data in volume.items():
        parts = [read(root / f"data/slices/patient001_frame02_slice_{k}.h5")[name] for k in (1, 2, 3)]
        assert np.array_equal(np.stack(parts), data)


@every_dataset
def test_a_case_depends_on_seed_and_number_alone(tmp_path, dataset):
    few = phantom.write_phantoms(tmp_path / "few", dataset, train=1, test=1, size=SMALL[dataset], seed=5)
    many = phantom.write_phantoms(tmp_path / "many", dataset, train=2, test=1, size=SMALL[dataset], seed=5)
    other = phantom.write_phantoms(tmp_path / "other", dataset, train=1, test=0, size=SMALL[dataset], seed=6)
    for path in (path.relative_to(few) for path in few.rglob("*.h5")):
        scan, again = read(few / path), read(many / path)
        assert all(np.array_equal(scan[name], again[name]) for name in ("image", "label"))
        assert not (other / path).exists() or not np.array_equal(scan["image"], read(other / path)["image"])
    (first, _), (second, _) = scans(dataset, (1,))[0], scans(dataset, (2,))[0]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("dataset", "size"), [
    ("LA", (40, 40, 36)), ("LA", 32), ("ACDC", (2, 48, 48)), ("ACDC", (3, 48, 48)), ("ACDC", (1, 32, 32)),
    ("ACDC", 48), ("BraTS2019", 32), ("BraTS2019", (16, 16, 16)),
])
def test_every_volume_has_every_class(dataset, size):
    for image, label in scans(dataset, range(1, 11), size):
        assert image.shape == label.shape and image.dtype == np.float32 and label.dtype == np.uint8
        assert set(np.unique(label)) == CLASSES[dataset] and np.isfinite(image).all()


@every_dataset
def test_an_int_leaves_each_case_its_own_size(dataset):
    shapes = [image.shape for image, _ in scans(dataset, (1, 2, 3), 40)]
    in_plane = [shape[1:] if dataset == "ACDC" else shape[:2] for shape in shapes]
    assert len(set(in_plane)) > 1 and all(40 <= n <= 46 for pair in in_plane for n in pair)
    slices = [shape[0] if dataset == "ACDC" else shape[2] for shape in shapes]
    assert set(slices) <= {"LA": {20}, "ACDC": set(range(7, 12)), "BraTS2019": {40}}[dataset]
    assert dataset != "ACDC" or shapes[::2] == shapes[1::2]     # both frames of a patient


def test_intensities_are_those_of_the_real_sets():
    for image, _ in scans("LA", range(1, 6)):       # of 20 real scans: -1.0 to -0.5, 2.9 to 10.8
        assert -2.5 < image.min() < -0.4 and 2 < image.max() < 15 and 0 < image.mean() < 2
    for image, _ in scans("ACDC", range(1, 4)):
        assert image.min() == 0 and image.max() == 1 and image.mean() < 0.5
    for image, label in scans("BraTS2019", range(1, 6)):
        brain = image != 0
        assert (image[brain].mean(), image[brain].std()) == pytest.approx((0, 1), abs=1e-3)
        assert 0.2 < brain.mean() < 0.7 and not label[~brain].any()


def test_the_second_frame_is_the_same_heart_contracted():
    for n in range(1, 6):
        (image, relaxed), (other, contracted) = phantom.draw_case("ACDC", n, (6, 64, 64)).values()
        assert (contracted == 3).sum() < (relaxed == 3).sum()
        assert ((contracted > 0) & (relaxed > 0)).sum() > 0.7 * (contracted > 0).sum()
        air = relaxed + contracted == 0
        assert np.corrcoef(image[air], other[air])[0, 1] < 0.999    # noise is drawn anew


@every_dataset
def test_no_band_of_intensities_is_the_foreground(dataset):
    dice = [best_band_dice(image, label > 0) for image, label in scans(dataset, range(1, 7))]
    assert max(dice) < 0.85 and np.mean(dice) < 0.75


@every_dataset
def test_a_closer_view_shows_more_of_the_target_and_what_misleads_may_be_left_out(dataset):
    def drawn(**ease):
        return [scan for n in range(1, 7) for scan in phantom.draw_case(dataset, n, SMALL[dataset], **ease).values()]

    def share(**ease):
        return np.mean([label > 0 for _, label in drawn(**ease)])

    def band(**ease):
        return np.mean([best_band_dice(image, label > 0) for image, label in drawn(**ease)])

    assert share(zoom=1.5) > 1.4 * share()
    assert band(clutter=0, noise=0) > band() + 0.03
    for (image, label), (quiet, same) in zip(drawn(), drawn(noise=0), strict=True):
        assert np.array_equal(same, label) and not np.array_equal(quiet, image)


@every_dataset
def test_labels_for_hides_training_labels_only(tmp_path, dataset):
    root = phantom.write_phantoms(tmp_path, dataset, train=2, test=1, size=SMALL[dataset], labels_for=1)
    with_label = {path for path in root.rglob("*.h5") if "label" in read(path)}
    hidden = set(root.rglob("*.h5")) - with_label
    assert hidden and all("patient002" in str(path) for path in hidden)
    assert not any("patient002" in str(path) for path in with_label)


@pytest.mark.parametrize("wrong", [
    {"dataset": "Pancreas"}, {"dataset": "LA", "val": 1}, {"train": -1}, {"train": 701}, {"size": 8},
    {"size": (48, 48)}, {"size": (0, 48, 48)},
])
def test_impossible_requests_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError):
        phantom.write_phantoms(tmp_path / "set", **{"dataset": "ACDC"} | wrong)
    assert not (tmp_path / "set").exists()


def test_lists_of_real_scans_are_not_overwritten(tmp_path):
    (tmp_path / "train.list").write_text("patient001_frame01\n", encoding="utf-8")
    with pytest.raises(FileExistsError):
        phantom.write_phantoms(tmp_path, "ACDC", train=1, test=0, size=SMALL["ACDC"])
    assert entries(tmp_path, "train.list") == ["patient001_frame01"] and not (tmp_path / "data").exists()


def test_phantoms_may_be_drawn_again(tmp_path):
    for train in (2, 1):
        phantom.write_phantoms(tmp_path, "LA", train=train, test=0, size=SMALL["LA"])
    assert len(entries(tmp_path, "train.list")) == 1
