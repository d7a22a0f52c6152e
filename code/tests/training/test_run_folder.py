"""A run folder knows its data, and one process at a time trains in it."""
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import h5py
import pytest
import torch

from runtime.device import Device
from runtime.errors import InputError
from runtime.files import load_tensors
from training import fit, run_folder
from training.checkpoints import Checkpoints
from training.material import Content

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
CODE = Path(fit.__file__).parents[1]
RECORD = {"dataset": "LA", "orientation": "LPS", "normalise": "zscore"}


@pytest.fixture
def data(phantoms, tmp_path):
    """A copy of LA's phantoms, to be changed, with a preprocessing record."""
    root = shutil.copytree(phantoms("LA"), tmp_path / "data")
    (root / "preprocessing.json").write_text(json.dumps(RECORD), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def _unfinished(tmp_path_factory):
    return tmp_path_factory.mktemp("unfinished") / "run"


@pytest.fixture
def cut_off(runs, monkeypatch):
    """cut_off(recipe): train until pre-training is over."""
    def train(own):
        with monkeypatch.context() as patch:
            patch.setattr(fit.Fit, "_enter", lambda self, stage: stage.name == "self" and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                runs.train(own)
    return train


@pytest.fixture
def unfinished(recipe, data, cut_off, _unfinished):
    """A recipe whose run was cut off after its first checkpoint."""
    own = recipe("LA", data_dir=data, pre_steps=1, self_steps=2, checkpoint_steps=1, select_on="test")
    if not _unfinished.exists():
        cut_off(dataclasses.replace(own, out=_unfinished))
        assert load_tensors(_unfinished / "checkpoint.pt")["stage"] == 1
    shutil.copytree(_unfinished, own.out)
    return own


def case(root, place, listed="train"):
    name = (root / f"{listed}.list").read_text(encoding="utf-8").split()[place]
    return root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5"


def bump(key, place, listed="train"):
    def change(root):
        with h5py.File(case(root, place, listed), "r+") as file:
            file[key][0, 0, 0] = 1 - file[key][0, 0, 0]
    return change


def reordered(root):
    first, second, *rest = (root / "train.list").read_text(encoding="utf-8").split()
    (root / "train.list").write_text("\n".join([second, first, *rest]), encoding="utf-8")


def shorter(root):
    (root / "train.list").write_bytes(b"\n".join((root / "train.list").read_bytes().split()[:-1]))


def renamed(root):
    path = case(root, -1)
    path.parent.rename(path.parent.with_name("other"))
    (root / "train.list").write_bytes(b"\n".join([*(root / "train.list").read_bytes().split()[:-1], b"other"]))


def prepared_otherwise(root):
    (root / "preprocessing.json").write_text(json.dumps(RECORD | {"normalise": "minmax"}), encoding="utf-8")


def exchanged(root):
    shutil.copy(case(root, 1), case(root, 0))


CHANGES = {
    "labelled image": (bump("image", 0), "image of patient001 changed"),
    "unlabelled image": (bump("image", -1), "image of patient005 changed"),
    "label": (bump("label", 1), "label of patient002 changed"),
    "validation label": (bump("label", 0, "test"), "label of patient801 changed"),
    "order": (reordered, "labelled case 1 was patient001, is patient002"),
    "length": (shorter, "unlabelled case 3 was patient005, is none"),
    "names": (renamed, "unlabelled case 3 was patient005, is other"),
    "preprocessing": (prepared_otherwise, "preprocessing: normalise was zscore, is minmax"),
    "a scan in another's place": (exchanged, "image and label of patient001 changed")}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_run_does_not_go_on_over_other_data_and_says_what_differs(unfinished, runs, data, change, words):
    change(data)
    before = {path: path.read_bytes() for path in unfinished.out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"holds a run on other data.*{words}.*--data-dir.*--out"):
        runs.train(unfinished)
    assert {path: path.read_bytes() for path in unfinished.out.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_not_taken_for_one_on_other_data(unfinished, runs, data, capsys):
    runs.train(unfinished)
    assert runs.train(unfinished) and "this run is finished" in capsys.readouterr().out
    bump("image", 0)(data)
    with pytest.raises(InputError, match="holds a run on other data"):
        runs.train(unfinished)


def test_the_same_data_may_move_and_labels_that_are_not_read_may_change(unfinished, runs, data, tmp_path, capsys):
    with h5py.File(case(data, -1), "r+") as file:
        file["label"][...] = 1
    moved = data.rename(tmp_path / "elsewhere")
    runs.train(dataclasses.replace(unfinished, data_dir=moved))
    assert "resuming after step" in capsys.readouterr().out and (unfinished.out / "last.pt").exists()


def test_a_run_of_an_earlier_version_goes_on_and_then_knows_its_data(unfinished, runs, data):
    (unfinished.out / "data.json").unlink()
    runs.train(unfinished)
    with pytest.raises(InputError, match="image of patient001 changed"):
        bump("image", 0)(data)
        runs.train(unfinished)


def test_a_run_goes_on_with_code_that_has_more_options(unfinished, runs):
    later = dataclasses.make_dataclass("Later", [("more", float, 0.5)], bases=(type(unfinished),), kw_only=True)
    with pytest.raises(InputError, match=r"another recipe \(more was 0.5, is 0.7\)"):
        runs.train(later(**vars(unfinished), more=0.7))
    assert (runs.train(later(**vars(unfinished))) / "last.pt").exists()


def test_config_says_who_trained_and_who_went_on_with_the_run(recipe, runs, monkeypatch):
    own = recipe(pre_steps=1, self_steps=2)

    def start(device, stopped=True):
        with monkeypatch.context() as patch:
            patch.setattr(Device, "__str__", lambda self: device)
            patch.setattr(Checkpoints, "load", lambda self: 1 / 0 if stopped else None)
            with pytest.raises(ZeroDivisionError) if stopped else nullcontext():
                runs.train(own)
        return json.loads((own.out / "config.json").read_text(encoding="utf-8"))
    first = start("one card")
    assert first["device"] == "one card" and first["versions"]["torch"] == torch.__version__
    assert start("one card") == first and "resumed" not in first
    noted = {name: first[name] for name in ("commit", "device", "versions")} | {"device": "another"}
    assert start("another") == start("another") == first | {"resumed": [noted]}
    back = {**noted, "device": "one card"}
    assert start("one card", stopped=False) == first | {"resumed": [noted, back]}
    assert start("a third", stopped=False) == first | {"resumed": [noted, back]}        # finished: nothing goes on
    assert re.fullmatch(r"CPU with [\w ]+, 1 thread", str(Device("cpu")))


@pytest.mark.parametrize("content", ["", "[1]", '{"cases": {}}', '{"preprocessing": null, "cases": {"a": {"b": [1]}}}'])
def test_a_damaged_record_is_named(unfinished, runs, content):
    (unfinished.out / "data.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.json.*restore the file from a copy, or delete it"):
        runs.train(unfinished)


def test_many_differences_are_counted():
    one, two = (Content(None, {"labelled": {str(case): ((1,), case + shift, None) for case in range(7)}})
                for shift in (0, 1))
    assert len(one.differences(two)) == 7 and one.differences(one) == []


def test_a_run_folder_that_another_process_trains_in_is_left_to_it(recipe, runs, tmp_path):
    own = recipe("LA")
    program = ("import sys, time\nfrom runtime.locks import locked\n"
               "with locked(sys.argv[1]):\n    print(1, flush=True)\n    time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", program, str(own.out)], cwd=CODE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(InputError, match=rf"run: process {holder.pid} on .* is writing into it.*--out"):
            runs.train(own)
        holder.kill()
    assert {path.name for path in own.out.iterdir()} <= {".lock"}


def test_a_folder_is_looked_at_again_once_it_is_held(recipe, runs, monkeypatch):
    """Another process may have made a run there between the first look and the lock."""
    own, held = recipe("LA"), run_folder.RunFolder.held

    def slow(folder):
        runs.loop(dataclasses.replace(own, seed=7))
        return held(folder)
    monkeypatch.setattr(run_folder.RunFolder, "held", slow)
    with pytest.raises(InputError, match="holds a run of another recipe.*seed was 7"):
        runs.train(own)


# ---- damaged files of a run that goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [pytest.param("empty", marks=pytest.mark.slow), "flipped"])
def test_a_damaged_last_pt_is_made_again_from_the_checkpoint(unfinished, runs, damage):
    runs.train(unfinished)
    path = unfinished.out / "last.pt"
    whole, weights = path.read_bytes(), runs.weights(unfinished.out)
    path.write_bytes(b"" if damage == "empty" else flipped(whole))
    with pytest.warns(UserWarning, match=r"last\.pt is damaged.*made again"):
        runs.train(unfinished)
    assert runs.same_tensors(runs.weights(unfinished.out), weights)
    path.write_bytes(b"")
    for checkpoint in unfinished.out.glob("checkpoint*.pt"):
        checkpoint.unlink()
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        runs.train(unfinished)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


def test_a_flipped_bit_in_the_checkpoint_costs_steps_only(unfinished, runs):
    path = unfinished.out / "checkpoint.pt"
    path.write_bytes(flipped(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged.*check sum"):
        runs.train(unfinished)
    assert (unfinished.out / "last.pt").exists()


@pytest.mark.parametrize("name", ["log.csv", pytest.param("val.csv", marks=pytest.mark.slow)])
def test_a_log_that_lost_rows_is_not_continued_silently(recipe, runs, cut_off, name):
    own = recipe(pre_steps=4, self_steps=2)
    cut_off(own)
    path = own.out / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for kept in (lines[:-1], lines[:2] + lines[3:], *([lines[:1], []] if name == "log.csv" else [])):
        path.write_text("".join(kept), encoding="utf-8")
        if len(kept) == len(lines):
            continue
        with pytest.raises(InputError, match=rf"{name} is damaged.*restore it from a copy, or delete it"):
            runs.train(own)
    path.unlink()
    runs.train(own)     # as the words say
    assert len(runs.rows(own.out)) == (2 if name == "log.csv" else 6)


def test_a_link_in_the_place_of_tb_is_not_followed(recipe, runs, tmp_path):
    (tmp_path / "outside").mkdir()
    own = recipe("LA", pre_steps=1, self_steps=1)
    runs.loop(own)
    (own.out / "tb").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(InputError, match="tb.*leads out of"):
        runs.train(own)
    assert not list((tmp_path / "outside").iterdir())


def test_a_disk_that_refuses_tensorboards_file_does_not_end_the_run(recipe, runs, monkeypatch, capsys):
    from training import board

    class Full:
        def __init__(self, file):
            pass

        def write(self, content):
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(board, "RecordWriter", Full)
    own = recipe("LA", pre_steps=1, self_steps=1)
    runs.train(own)
    captured = capsys.readouterr()
    assert (own.out / "last.pt").exists() and "Traceback" not in captured.err
    assert (captured.out + captured.err).count("going on without TensorBoard") == 1


def test_points_and_pictures_are_there_for_tensorboard(recipe, runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    own = recipe(pre_steps=10, self_steps=2, eval_every=6)
    runs.train(own)
    events = EventAccumulator(str(own.out / "tb")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10]
    assert [event.step for event in events.Scalars("val/dice_fused")] == [6, 10, 12]
    assert events.Images("train/input, target, views")
