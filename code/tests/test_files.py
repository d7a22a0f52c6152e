"""Files that survive: written aside, never half there, and refused in words when they are damaged."""
import csv
import errno

import pytest
import torch

from errors import InputError
from files import Table, load_tensors, save_tensors, write_aside, write_text


def test_text_is_written_and_replaced(tmp_path):
    for text in ("first\n", "second ±\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_previous_file_and_says_so(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")

    def write(file):
        file.write(b"half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"a\.bin: cannot be written \(No space left on device\).*untouched"):
        write_aside(path, write)
    assert path.read_bytes() == b"previous" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_interruption_while_writing_leaves_the_previous_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")

    def write(file):
        file.write(b"half of the n")
        assert path.read_bytes() == b"previous"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_aside(path, write)
    assert path.read_bytes() == b"previous" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


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


class Payload:
    """What unpickling would build, were it allowed to."""


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "objects", "missing", "folder"])
def test_damaged_or_foreign_checkpoints_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "a.pt"
    save_tensors(path, {"w": torch.zeros(1000)})
    whole = path.read_bytes()
    if damage == "objects":
        torch.save({"w": Payload()}, path)
    elif damage == "missing":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": whole[:len(whole) // 2], "empty": b"", "text": b"not a checkpoint\n"}[damage])
    with pytest.raises(InputError) as error:
        load_tensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


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
    with open(tmp_path / "log.csv", newline="") as file:
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
        assert len((tmp_path / "log.csv").read_text().splitlines()) == step + 2


def test_a_half_written_last_line_is_left_out(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n2,0.25\n3,0.1")
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
