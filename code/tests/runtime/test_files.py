"""Files that survive: written aside, never half there, and refused in words when they are damaged."""
import csv
import errno
import math
import os
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from imaging.preparation import write_case
from imaging.scan_files import ScanFile, save_on_grid
from runtime.csv_table import Table
from runtime.errors import Denied, InputError, counted, held_by_another
from runtime.files import HOST, inside, is_case_name, load_tensors, load_weights, save_tensors, write_text
from training.checkpoints import Checkpoints, is_finished


def test_text_is_written_and_replaced(tmp_path):
    for text in ("first\n", "second ±\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


WRITERS = {
    "text": lambda path: write_text(path, "x" * 10 ** 6),
    "checkpoint": lambda path: save_tensors(path, {"w": torch.zeros(10 ** 6)}),
    "checkpoint of many": lambda path: save_tensors(path, {str(i): torch.zeros(10 ** 3) for i in range(300)}),
    "HDF5": lambda path: write_case(path, np.random.default_rng(0).random((99, 99, 99)), compression="gzip"),
    "NIfTI": lambda path: save_on_grid(path, np.random.default_rng(0).random((99, 99, 99)), ScanFile(
        np.zeros((99, 99, 99)), np.eye(4), np.ones(3), Path("scan.nrrd"))),
    "row": lambda path: Table(path).append({"step": "x" * 10 ** 6}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_is_full_leaves_the_previous_file_and_says_so(tmp_path, write):
    """Full in earnest: the system allows no file above 100 kB."""
    path = tmp_path / "a.nii.gz"
    path.write_text("step\n0\n", encoding="utf-8")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be written \(File too large\).*untouched"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes().decode().startswith("step\n0\n") and [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_an_interruption_while_writing_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")

    def interrupted(descriptor):
        assert path.read_bytes() == b"previous"
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "half of the n")
    assert path.read_bytes() == b"previous" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_links_are_replaced_not_followed(tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "out"
    precious.write_text("mine", encoding="utf-8")
    folder.mkdir()
    for name in ("a.txt", f".a.txt.{HOST}-{os.getpid()}.tmp"):
        (folder / name).symlink_to(precious)
    write_text(folder / "a.txt", "new")
    assert precious.read_text(encoding="utf-8") == "mine" and (folder / "a.txt").read_text(encoding="utf-8") == "new"
    assert [path.name for path in folder.iterdir()] == ["a.txt"] and not (folder / "a.txt").is_symlink()


def test_what_killed_processes_left_is_cleared_and_nobody_elses(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = f".a.txt.{HOST}-{dead.pid}.tmp"
    others = {f".a.txt.{HOST}-{os.getppid()}.tmp", ".a.txt.elsewhere-1.tmp", f".b.txt.{HOST}-{dead.pid}.tmp", ".a.tmp"}
    for name in (left, *others):
        (tmp_path / name).write_text("half", encoding="utf-8")
    write_text(tmp_path / "a.txt", "x")
    assert {path.name for path in tmp_path.iterdir()} == others | {"a.txt"}


@pytest.mark.parametrize("name", [
    "", ".a", "a/b", "a\\b", "..", "a..b", " a", "a ", "\u3000a", "a\n", "a\u2028b", "a\x85b",
    "scan.h5", "caf\udce9", "a:b", "a\x00b", "a\u200eb"])
def test_a_case_name_is_one_that_a_list_gives_back(name):
    assert not is_case_name(name)
    assert is_case_name("Patiënt 12_a-b.c")


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    """Wherever it is in what is loaded; the names and gaps of the archive may differ without harm."""
    path, draw = tmp_path / "a.pt", random.Random(0)
    save_tensors(path, {"method": {"w": torch.randn(1000)}, "step": 3})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        [entry] = [entry for entry in file.infolist() if entry.filename.endswith("data/0")]
    content = whole.index(load_tensors(path)["method"]["w"].numpy().tobytes())
    for _ in range(20):
        place = content + draw.randrange(entry.file_size)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1:])
        with pytest.raises(InputError, match=r"a\.pt is damaged or no checkpoint \(the check sum of .*data/0 is wrong"):
            load_tensors(path)


def test_a_path_through_a_link_leads_out_of_its_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "data").symlink_to("../elsewhere")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(InputError, match=r"data/a\.h5: leads out of .*out, to .*elsewhere"):
        inside(tmp_path / "out", tmp_path / "out" / "data" / "a.h5")
    with pytest.raises(InputError, match="leads out of"):
        inside(tmp_path / "out", tmp_path / "out" / ".." / "a.h5")
    assert inside(tmp_path / "link", tmp_path / "link" / "cases" / "a.h5").parent.is_dir()


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_tensors_come_back_as_they_were(tmp_path):
    content = {"method": {"w": torch.randn(3, 4), "n": torch.tensor(5)}, "step": 7, "best": float("-inf"), "none": None,
               "list": [1, 2.5, "x", (True,)]}
    save_tensors(tmp_path / "a.pt", content)
    loaded = load_tensors(tmp_path / "a.pt")
    assert torch.equal(loaded["method"].pop("w"), content["method"].pop("w"))
    assert loaded == content


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_never_written(tmp_path, value):
    save_tensors(tmp_path / "a.pt", {"best": -math.inf, "w": torch.ones(2)})
    before = (tmp_path / "a.pt").read_bytes()
    sick = {"method": {"w": torch.zeros(2)}, "optimizer": {"state": [{"momentum": torch.tensor([1, value])}]}}
    with pytest.raises(InputError, match=r"a\.pt: not written, since optimizer\.state\.0\.momentum has NaN.*--lr"):
        save_tensors(tmp_path / "a.pt", sick)
    assert (tmp_path / "a.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_table_grows_by_rows_and_columns(tmp_path):
    table = Table(tmp_path / "log.csv")
    assert table.rows() == []
    table.append({"step": 1, "loss": "0.5"})
    table.append({"step": 2, "loss": "0.4"})
    table.append({"step": 3, "loss": "0.3", "dis": "2"})
    table.append({"step": 4, "dis": "1"})
    expected = [{"step": "1", "loss": "0.5", "dis": ""}, {"step": "2", "loss": "0.4", "dis": ""},
                {"step": "3", "loss": "0.3", "dis": "2"}, {"step": "4", "loss": "", "dis": "1"}]
    assert table.rows() == expected
    with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == expected


def test_a_table_goes_on_where_it_was_left(tmp_path):
    for step in (1, 2, 3):
        table = Table(tmp_path / "log.csv")
        table.append({"step": step})
        table.close()
    assert [row["step"] for row in table.rows()] == ["1", "2", "3"]


def test_every_appended_row_is_on_disk_at_once(tmp_path):
    table = Table(tmp_path / "log.csv")
    for step in range(3):
        table.append({"step": step})
        assert len((tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()) == step + 2


def test_a_half_written_last_line_is_left_out(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n2,0.25\n3,0.1", encoding="utf-8")
    table = Table(tmp_path / "log.csv")
    assert [row["step"] for row in table.rows()] == ["1", "2"]


def test_a_table_is_replaced_as_a_whole(tmp_path):
    table = Table(tmp_path / "log.csv")
    for step in range(4):
        table.append({"step": step, "loss": step})
    table.write([row for row in table.rows() if int(row["step"]) < 2])
    table.append({"step": 9, "loss": 9})
    assert [row["step"] for row in table.rows()] == ["0", "1", "9"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_file_of_another_user_is_refused_as_such(tmp_path):
    """As an unprivileged user, in a process of its own: the superuser may read all."""
    save_tensors(tmp_path / "own.pt", {})
    load_tensors(tmp_path / "own.pt")       # with all the modules it takes: the other user may not read ours
    path = tmp_path / "last.pt"
    path.write_bytes(b"theirs")
    path.chmod(0o600)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(tmp_path)      # whose parents are closed to others
            if os.geteuid() == 0:
                os.setuid(65534)
            else:
                path.chmod(0)
            load_tensors("last.pt")
        except Denied:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    """Nor made again in its place: neither last.pt from a checkpoint, nor an older checkpoint taken for the newest."""
    for name in ("last.pt", "checkpoint.pt", "checkpoint_prev.pt"):
        save_tensors(tmp_path / name, {"method": {}, "optimizer": {}, "stage": 0, "step": 0, "best": 0.0,
                                       "last_dice": None})
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in ("last.pt", "checkpoint.pt"))
    with pytest.raises(Denied, match="last.pt: may not be read"):
        is_finished(tmp_path)
    with pytest.raises(Denied, match="checkpoint.pt: may not be read"):
        Checkpoints(tmp_path, None, None, [1], {}).load()


@pytest.mark.parametrize(("number", "words"), [
    (errno.EAGAIN, "another program has it open for writing"), (errno.ENOLCK, "HDF5_USE_FILE_LOCKING=FALSE"),
    (errno.ENOTSUP, "no locks")])
def test_a_file_that_cannot_be_locked_is_no_other_programs(number, words):
    """In HDF5's words, on a network's file system, say."""
    told = str(held_by_another("scan.h5", OSError(f"Unable to synchronously open file (unable to lock file, errno = "
                                                  f"{number}, error message = '{os.strerror(number)}')")))
    assert words in told and ("another program" in told) == (number == errno.EAGAIN)
    assert held_by_another("scan.h5", OSError("file signature not found")) is None


@pytest.mark.parametrize(("number", "noun", "words"), [(0, "scan", "0 scans"), (1, "scan", "1 scan"),
                                                       (2, "case", "2 cases")])
def test_one_thing_is_not_several(number, noun, words):
    assert counted(number, noun) == words


def looped():
    holder = [1]
    holder.append(holder)
    return holder


STRANGE = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "w is a tensor that is sparse_coo"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "w is a tensor that is sparse_csr"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is quantized"),
    "float8": (lambda: torch.ones(3).to(torch.float8_e4m3fn), "of type float8_e4m3fn"),
    "half": (lambda: torch.ones(3).half(), "of type float16"), "int8": (lambda: torch.ones(3).char(), "of type int8"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "of type complex64"),
    "meta": (lambda: torch.ones(3, device="meta"), "is meta"),
    "bytes": (lambda: bytearray(b"x"), "is a bytearray"), "complex number": (lambda: 1j, "is a complex"),
    "a list that holds itself": (looped, "w.1 holds itself"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_this_program_does_not_write_is_refused_by_name(tmp_path, name):
    make, words = STRANGE[name]
    torch.save({"method": {"w": make()}, "step": 1}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=rf"last\.pt .*{words}.*restore the file"):
        load_tensors(tmp_path / "last.pt")


@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.uint8])
def test_weights_of_another_type_are_not_cast(kind):
    network = torch.nn.Linear(2, 2)
    state = network.state_dict() | {"weight": torch.ones(2, 2, dtype=kind)}
    with pytest.raises(InputError, match=f"weight is of type {str(kind)[6:]}, expected float32"):
        load_weights(network, state, "last.pt")


def test_a_row_after_a_half_written_one_is_a_row_of_its_own(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,", encoding="utf-8")
    table = Table(tmp_path / "t.csv")
    table.append({"a": 5, "b": 6})
    assert Table(tmp_path / "t.csv").rows() == table.rows() == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]
    table.close()
    (tmp_path / "t.csv").write_text("", encoding="utf-8")
    Table(tmp_path / "t.csv").append({"a": 7})
    assert Table(tmp_path / "t.csv").rows() == [{"a": "7"}]
