"""Files that survive a kill: written aside, flushed to disk, renamed."""
import csv
import io
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

from errors import InputError, one_line

ROOT = Path(__file__).resolve().parents[1]      # of the repository


def write_aside(path, write):
    """Call write(binary file) on a temporary neighbour of `path`, flush it to disk, rename it to `path`.

    A kill or a full disk leaves the previous file as it was; OSError becomes an InputError that says so.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free space or mend permissions, and "
                         "start the same command again; the file's previous version is untouched") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_text(path, text):
    write_aside(path, lambda file: file.write(text.encode()))


def save_tensors(path, content):
    """torch.save of tensors, numbers, strings, lists and dicts."""
    import torch  # here: the prepare scripts and their workers do without it
    write_aside(path, lambda file: torch.save(content, file))


def load_tensors(path):
    """What `save_tensors` wrote, on the CPU; nothing in the file is executed. InputError if it is damaged."""
    import torch
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or no checkpoint ({one_line(error)[:200]})") from error


class Table:
    """A CSV file that grows by rows; columns may join later."""

    def __init__(self, path):
        self.path = Path(path)
        self.columns = next(csv.reader(self.path.open(newline=""))) if self.path.exists() else []
        self.file = None

    def rows(self):
        """Rows as dicts of strings; a half-written last line is left out."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            complete = "".join(line for line in file if line.endswith("\n"))
        return list(csv.DictReader(io.StringIO(complete, newline="")))

    def append(self, row):
        new = [column for column in row if column not in self.columns]
        if new:
            self.write(self.rows(), [*self.columns, *new])
        if self.file is None:
            self.file = self.path.open("a", newline="", buffering=1)
        csv.DictWriter(self.file, self.columns).writerow(row)

    def write(self, rows, columns=None):
        """Replace the whole file."""
        self.close()
        self.columns = list(columns or self.columns)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def close(self):
        """Flush to disk."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            self.file = None
