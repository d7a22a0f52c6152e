"""predictions.csv: what predict.py measured of each label map, the case to look at first in front."""
import math
from pathlib import Path

from evaluation import trust
from evaluation.calibration import estimated
from imaging.scan_files import suffix
from runtime.csv_table import Table
from runtime.errors import InputError, counted

PREDICTIONS_CSV = "predictions.csv"
NOTED = ".predictions_{}.csv"       # of one process, until all are put together
REQUIRED = {"case", "class", "score", "flags", "file", "made_from"}
TRAINED_ON, SEEN = "labelled", "unlabelled"     # in the column "training": trained on with its label, or without
TOLD = 5                            # cases that are named in the end


class Predictions:
    """The rows of a folder's label maps, by case, with those that a killed call left.

    number: of this process. With `force`, a predictions.csv that is damaged or somebody else's is replaced; else
    InputError.
    """

    def __init__(self, folder, number=0, force=False):
        self.folder, self.path = Path(folder), Path(folder) / PREDICTIONS_CSV
        self.own = Table(self.folder / NOTED.format(number))
        self.cases = self._read(self.path, force)
        for path in self._noted():
            self.cases |= self._read(path, force=True)

    def _noted(self):
        return sorted(self.folder.glob(NOTED.format("*")))

    def _read(self, path, force):
        """{case: its rows}"""
        try:
            rows = Table(path).rows()
            if rows and not REQUIRED <= set(rows[0]):
                raise InputError(f"{path}: is no table of predict.py; --force replaces it, another --output keeps it")
            cases = {}
            for row in rows:
                float(row["score"])
                row["case"] = _case_of(row)
                cases.setdefault(row["case"], []).append(row)
            return cases
        except (InputError, ValueError) as error:
            if force:
                return {}
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: is damaged ({error}); --force replaces it, another --output keeps it") from error

    def has(self, case, mark, classes):
        """Whether the case was measured with this mark, each of its foreground classes."""
        rows = self.cases.get(case, [])
        return len(rows) == classes and all(row["made_from"] == mark for row in rows)

    def note(self, rows, file, mark):
        """Keep the rows of a case, whose label map is `file`, whatever happens later."""
        rows = [{key: _cell(value) for key, value in row.items()} | {"file": file, "made_from": mark} for row in rows]
        for row in rows:
            self.own.append(row)
        self.own.close()
        self.cases[rows[0]["case"]] = rows

    def finish(self, calibration=None, made_by=""):
        """Write the table of all processes: the rows whose label maps are there, ranked -> {case: its rows}.

        calibration: that of the weights whose marks begin with `made_by`; what others' said of their rows stays.
        """
        for path in self._noted():
            self.cases |= self._read(path, force=True)
        there = {case: rows for case, rows in self.cases.items() if (self.folder / Path(rows[0]["file"]).name).exists()}
        ranked = trust.scores(row for rows in there.values() for row in rows)
        self.cases = {case: [self._ranked(row, look, calibration, made_by) for row in there[case]]
                      for look, case in enumerate(ranked, 1)}
        columns = dict.fromkeys(key for rows in self.cases.values() for row in rows for key in row)
        self.own.close()
        Table(self.path).write([row for rows in self.cases.values() for row in rows], columns)
        for path in self._noted():
            path.unlink()
        return self.cases

    def _ranked(self, row, look, calibration, made_by):
        own, before = row["made_from"].startswith(made_by), row.get("estimated_dice")
        row = {"look": look} | {key: value for key, value in row.items() if key not in ("look", "estimated_dice")}
        if own and calibration:
            row["estimated_dice"] = _cell(float(estimated(calibration, float(row["score"]))))
        elif before and not own:
            row["estimated_dice"] = before
        return row

    def trained_on(self, role):
        """Names of the label maps of runs that were trained on their scans, TRAINED_ON or SEEN."""
        return {Path(rows[0]["file"]).name for rows in self.cases.values() if rows[0].get("training") == role}

    def told(self, cases):
        """Lines that say which of these cases were trained on, and which to look at first; none of no cases."""
        flagged = [(case, trust.flags_of(rows)) for case, rows in self.cases.items() if case in cases]
        flagged = [(case, flags) for case, flags in flagged if flags]
        lines = [f"look at {case}: {'; '.join(flags)}" for case, flags in flagged[:TOLD]]
        known = [case for case in cases if self.cases.get(case, [{}])[0].get("training") == TRAINED_ON]
        known = [f"{counted(len(known), 'scan')} that training had with a label, {min(known)} the first: how good such "
                 "a result is says nothing of new scans"] if known else []
        if not flagged:
            return known + bool(cases) * [f"no case is flagged; {self.path} has them ranked"]
        return [*known, *lines, (f"and {len(flagged) - TOLD} more with flags; " if len(flagged) > TOLD else "")
                + f"{self.path} has all cases ranked"]


def flags_of_cases(folder):
    """{case: its flags in words} of a folder's predictions.csv, the case to look at first in front."""
    cases = {}
    for row in Table(folder / PREDICTIONS_CSV).rows():
        cases.setdefault(row["case"], []).append(row)
    return {name: "; ".join(trust.flags_of(rows)) for name, rows in cases.items()}


def _case_of(row):
    """As its label map is called where its cell is no more: spreadsheets make 1 of 001."""
    file = Path(row["file"]).name
    if file.startswith(row["case"]):
        return row["case"]
    return file.removesuffix(suffix(Path(file))).removesuffix(".dcm").removesuffix("_rtstruct")


def _cell(value):
    """A value as the table holds it; empty where it is unknown."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
