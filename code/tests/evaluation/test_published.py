"""The paper's numbers, typed in a second time from its text, row by row as printed."""
from evaluation import published

LA = """
V-Net 4 52.55 47.05 9.87
V-Net 8 82.74 13.35 3.26
V-Net 80 91.47 5.48 1.51
UA-MT 4 82.26 13.71 3.82
SASSNet 4 81.60 16.16 3.58
DTC 4 81.25 14.90 3.99
URPC 4 82.48 14.65 3.65
MC-Net 4 83.59 14.07 2.70
SS-Net 4 86.33 9.97 2.31
MCF 4 86.52 9.12 2.40
Ours 4 87.63 8.92 2.23
UA-MT 8 87.79 8.68 2.12
SASSNet 8 87.54 9.84 2.59
DTC 8 87.51 8.23 2.36
URPC 8 86.92 11.13 2.28
MC-Net 8 87.62 10.03 1.82
SS-Net 8 88.55 7.49 1.90
MCF 8 88.05 8.32 2.08
Ours 8 90.36 6.06 1.68
"""
ACDC = """
U-Net 3 47.83 31.16 12.62
U-Net 7 79.41 9.35 2.70
U-Net 70 91.44 4.30 0.99
UA-MT 3 46.04 20.08 7.75
SASSNet 3 57.77 20.05 6.06
DTC 3 56.90 23.36 7.39
URPC 3 55.87 13.60 3.74
MC-Net 3 62.85 7.62 2.33
SS-Net 3 65.82 6.67 2.28
MCF 3 82.37 5.74 1.59
Ours 3 88.53 1.87 0.57
UA-MT 7 81.65 6.88 2.02
SASSNet 7 84.50 5.42 1.86
DTC 7 84.29 12.81 4.01
URPC 7 83.10 4.84 1.53
MC-Net 7 86.44 5.50 1.84
SS-Net 7 86.78 6.07 1.40
MCF 7 87.67 3.89 1.14
Ours 7 89.42 1.42 0.52
"""
BRATS = """
V-Net 25 78.32 22.29 7.36
V-Net 50 80.18 20.57 6.09
V-Net 250 88.23 7.21 1.53
MT 25 81.70 13.28 3.56
DAN 25 82.50 15.11 3.79
UA-MT 25 80.93 17.71 5.43
ICT 25 82.70 13.43 4.07
EM 25 82.35 14.70 3.68
URPC 25 84.16 11.01 2.63
MCF 25 83.67 12.58 3.28
Ours 25 85.26 9.08 1.83
MT 50 85.03 7.80 1.89
DAN 50 84.63 8.96 2.34
UA-MT 50 85.05 12.31 3.03
ICT 50 84.67 8.97 2.39
EM 50 84.82 12.37 3.21
URPC 50 85.49 8.47 2.04
MCF 50 84.85 11.24 2.29
Ours 50 86.63 7.83 1.45
"""
# LA, then ACDC: labelled term alone; with discrepancy; with unlabelled term; with both
TABLE4 = ("82.74 13.35 3.26", "83.73 18.92 4.80", "88.16 9.83 2.32", "90.36 6.06 1.68",
          "79.41 9.35 2.70", "80.27 7.69 2.36", "87.75 6.35 1.71", "89.42 1.42 0.52")
NAMES = {"V-Net": "supervised", "U-Net": "supervised", "MT": "mean_teacher", "UA-MT": "ua_mt", "Ours": "cml"}


def typed(text):
    """{(method, labelled): row} of a table as printed."""
    lines = [line.split() for line in text.strip().splitlines()]
    return {(NAMES.get(name, name.lower().replace("-", "_")), int(labeled)): tuple(map(float, values))
            for name, labeled, *values in lines}


def test_tables_1_to_3_are_the_papers():
    for dataset, text in {"LA": LA, "ACDC": ACDC, "BraTS2019": BRATS}.items():
        rows = typed(text)
        held = {(method, labeled): row for method, ratios in published.TABLES[dataset].items()
                for labeled, row in ratios.items()}
        assert held == rows and len(rows) == 19
        assert all(published.row(dataset, *key) == row for key, row in rows.items())


def test_table_4_is_the_papers():
    rows = iter(TABLE4)
    for dataset in ("LA", "ACDC"):
        for terms in ((False, False), (True, False), (False, True), (True, True)):      # (discrepancy, unlabelled)
            assert published.TABLE4[dataset][terms] == tuple(map(float, next(rows).split()))


def test_the_noted_oddities_are_there():
    for dataset, labeled in (("LA", 8), ("ACDC", 7)):
        rows = published.TABLE4[dataset]
        assert rows[False, False] == published.row(dataset, "supervised", labeled)
        assert rows[True, True] == published.row(dataset, "cml", labeled)
    gain = {dataset: rows[False, True][0] - rows[False, False][0] for dataset, rows in published.TABLE4.items()}
    assert round(gain["LA"], 2) == 5.42 and round(gain["ACDC"], 2) == 8.34
    assert published.row("BraTS2019", "mean_teacher", 50)[1] < published.row("BraTS2019", "cml", 50)[1]


def test_what_the_paper_does_not_report_has_no_row():
    for key in (("LA", "cml", 7), ("LA", "mean_teacher", 8), ("mine", "cml", 8), ("ACDC", "cml_plus", 3)):
        assert published.row(*key) is None
