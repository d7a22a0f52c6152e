"""CSV files that grow row by row while a run goes on, and survive a kill."""
import csv
import io
import os
from pathlib import Path

from runtime.errors import InputError, one_line
from runtime.files import check_readable, write_text, writing

MEND = "restore it from a copy, or delete it and go on without its rows"     # a damaged table


def other_separators(heading):
    """What is wrong with a file that was saved with other separators, as spreadsheets of some languages do; or None."""
    for sign, words in ((";", "semicolons"), ("\t", "tabs")):
        if len(heading) == 1 and sign in heading[0]:
            return f"has {words} between its cells, expected commas, and points in numbers, as it was written"
    return None


class Table:
    """A CSV file that grows by rows; columns may join later. InputError for a damaged one."""

    def __init__(self, path):
        self.path = Path(path)
        self.file = None
        self.columns = next(self._lines(), [])

    def _lines(self):
        """Cells of each line, the heading's first; a half-written last line is left out."""
        if not self.path.exists():
            return
        check_readable(self.path)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:      # spreadsheets mark it
                yield from csv.reader(line for line in file if line.endswith("\n"))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path} is damaged ({one_line(error)}): {MEND}") from error

    def rows(self):
        """Rows as dicts of strings; a half-written last line is left out."""
        heading, *lines = list(self._lines()) or [[]]
        if why := other_separators(heading):
            raise InputError(f"{self.path}: {why}: save it so, or restore it from a copy")
        for number, line in enumerate(lines, 2):
            if len(line) != len(heading):
                raise InputError(f"{self.path} is damaged (line {number} has {len(line)} cells, expected "
                                 f"{len(heading)}): {MEND}")
        return [dict(zip(heading, line, strict=True)) for line in lines]

    def append(self, row):
        new = [column for column in row if column not in self.columns]
        if new:
            self.write(self.rows(), [*self.columns, *new])
        if self.file is None and self._ends_half_written():
            self.write(self.rows())     # or the next row would be the end of that one
        with writing(self.path):
            if self.file is None:
                self.file = self.path.open("a", newline="", buffering=1, encoding="utf-8")
            csv.DictWriter(self.file, self.columns).writerow(row)

    def _ends_half_written(self):
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"

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
            with writing(self.path):
                os.fsync(self.file.fileno())
                self.file.close()
            self.file = None
