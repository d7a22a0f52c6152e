"""report.html: one file, no outside requests; in a browser it sorts, opens cases, slides through slices."""
import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import reproduce
import test_ACDC
from reproduction import page
from reproduction.results import Kept
from reproduction.segmentations import Segmented
from runtime.device import Device
from runtime.errors import InputError
from training.run_folder import RunFolder

CHROMIUM, DRIVER = (next(filter(None, map(shutil.which, names)), None)
                    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)))


@pytest.fixture(scope="module")
def _made():
    return []


@pytest.fixture
def report(_made, results, recipe, runs, shallow, no_curves, tmp_path_factory):
    """The page of made-up tables and of the cases of a tiny trained run, `run` beside it; made once."""
    if not _made:
        _made.append(_report(tmp_path_factory.mktemp("report"), results, recipe, runs))
    return _made[0]


def _report(home, results, recipe, runs):
    (results / "ACDC/cml_7_seed1337_mini/val.csv").write_text(
        "stage,step,split,fused,subnet0,subnet1\npre,2,val,0.1,0.1,0.1\nself,1,val,0.5,0.4,0.3\n", encoding="utf-8")
    path = results / "ACDC/cml_7_seed1337_mini/config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {
        "command": "python code/train_ACDC.py <mini>", "commit": "0123456789abcdef"}), encoding="utf-8")
    own = recipe("ACDC", pre_steps=1, self_steps=1, out=home / "run")
    runs.train(own)
    test_ACDC.main(["--run", str(own.out), "--device", "cpu"])
    path = home / "report.html"
    reproduce.main(["report", "--output", str(path), "--runs", str(own.out), "--results", str(results), "--device",
                    "cpu"])
    return path


def data_of(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>',
                                path.read_text(encoding="utf-8"), re.S)[1])


def sprite(source, image):
    picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    return np.asarray(picture).reshape(image["depth"], image["height"], image["width"])


def test_the_page_is_one_file_with_every_number_and_its_origin(report):
    text = report.read_text(encoding="utf-8")
    assert "66.00 ± 8.72" in text and "89.42" in text           # ours, and the paper's
    assert "python code/train_ACDC.py &lt;mini&gt;" in text and "commit 0123456789ab" in text
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text) and not re.search(r"https?://(?!www\.w3\.org)", text)
    assert data_of(report)["curves"] == [{"name": "ACDC/cml_7_seed1337_mini", "colour": "#d55e00",
                                          "points": [[2, 10.0], [3, 50.0]]}]


def test_the_browser_has_the_cases_as_they_were_segmented(report, tmp_path, runs):
    browser = data_of(report)["browser"]
    [run] = browser["runs"]
    dice = [case["dice"] for case in run["cases"]]
    assert dice == sorted(dice) and len(dice) == run["tested"] == 2
    case = run["cases"][0]
    assert list(case["layers"]) == ["reference", "fused", "subnet0", "subnet1", "disagreement"]
    image = browser["images"][case["image"]]
    layers = {name: sprite(source, image) for name, source in case["layers"].items()}
    assert np.array_equal(layers["disagreement"] > 0, layers["subnet0"] != layers["subnet1"])
    for label in (1, 2, 3):
        ours, reference = layers["fused"] == label, layers["reference"] == label
        assert case["views"]["fused"][label - 1] == pytest.approx(
            200 * (ours & reference).sum() / (ours.sum() + reference.sum()), abs=0.06)


def test_a_case_has_its_dice_in_the_test_where_its_reference_lacks_a_class():
    reference, image = np.zeros((3, 20, 20), np.uint8), np.ones((3, 20, 20), np.float32)
    reference[1, 4:8, 4:8] = 1
    false = reference.copy()
    false[1, 12:16, 4:8] = 2
    run = {"pair": None, "classes": ["left", "right", "other"]}
    _, [(_, entry)] = page._sprites([(run, Segmented("a", image, reference, {"network": false}, 0), 66.7)])
    assert entry["dice"] == 66.7 and entry["views"] == {"network": [100.0, 0.0, None]}


@pytest.mark.slow
def test_cases_beyond_the_limit_are_left_out(report, monkeypatch, tmp_path, results, shallow):
    monkeypatch.setattr(page, "LIMIT", 1)
    reproduce.main(["report", "--output", str(tmp_path / "small.html"), "--runs", str(report.with_name("run")),
                    "--results", str(results), "--device", "cpu"])
    assert data_of(tmp_path / "small.html")["browser"]["runs"] == []
    assert "No run with weights was at hand" in (tmp_path / "small.html").read_text(encoding="utf-8")


def test_a_run_that_is_not_tested_is_refused(recipe, tmp_path):
    own = recipe("ACDC").complete()
    RunFolder(own.out, own).open(Device("cpu"))
    with pytest.raises(InputError, match="has no weights or was not tested yet"):
        page.write(tmp_path / "report.html", (own.out,), results=tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"data_dir": "/nowhere"}, "does not exist"), ({"method": "mine"}, "method mine: unknown")])
def test_a_run_that_cannot_be_shown_costs_the_page_of_the_others_nothing(report, tmp_path, shallow, monkeypatch, capsys,
                                                                         change, words):
    """Runs that nobody named: of scans that were moved, or of a method of another version."""
    for name in ("first", "gone", "last"):
        shutil.copytree(report.with_name("run"), tmp_path / "model/ACDC" / name)
    path = tmp_path / "model/ACDC/gone/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"recipe": config["recipe"] | change}), encoding="utf-8")
    monkeypatch.setattr(page, "MODEL", tmp_path / "model")
    page.write(tmp_path / "report.html", device="cpu", results=tmp_path)
    assert [run["name"] for run in data_of(tmp_path / "report.html")["browser"]["runs"]] == ["ACDC/first", "ACDC/last"]
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("left out: ACDC/gone: ") and words in line
    with pytest.raises(InputError, match=words):
        page.write(tmp_path / "report.html", (path.parent,), device="cpu", results=tmp_path)


def test_two_scans_of_one_name_are_two_images(report, tmp_path, monkeypatch):
    """Runs on one data set share the image of a case; a scan of the same name in another one has its own."""
    folders = [shutil.copytree(report.with_name("run"), tmp_path / name / "run") for name in ("one", "two", "three")]
    draw = np.random.default_rng(0)
    image, reference = draw.random((5, 40, 40), dtype=np.float32), draw.integers(0, 4, (5, 40, 40), np.uint8)

    def segmented(folder, names, device, data_dir):
        own = image[::-1] if folder.parent.name == "two" else image
        views = {view: reference for view in ("fused", "subnet0", "subnet1")}
        return [Segmented(name, own, reference, views, 0) for name in names]

    monkeypatch.setattr(page, "segmented", segmented)
    browser = page._browser(folders, 12, "cpu", None)
    assert [run["name"] for run in browser["runs"]] == ["one/run", "two/run", "three/run"]
    one, two, three = ({case["name"]: case["image"] for case in run["cases"]} for run in browser["runs"])
    assert one == three and one.keys() == two.keys() and not set(one.values()) & set(two.values())
    for name, key in one.items():
        first, second = (sprite(browser["images"][at]["source"], browser["images"][at]) for at in (key, two[name]))
        assert np.array_equal(first, second[::-1]) and not np.array_equal(first, second)


@pytest.mark.parametrize("name", ("../elsewhere", "/etc/passwd", "a/b", "", ".hidden", "a\nb"))
def test_a_name_from_a_table_that_leads_elsewhere_is_refused(report, tmp_path, name):
    run = shutil.copytree(report.with_name("run"), tmp_path / "run")
    path = run / "test_test_last.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([rows[0] | {"case": name}, *rows[1:]])
    with pytest.raises(InputError, match=r"test_test_last\.csv is not .*cannot be the name of a case"):
        page.write(tmp_path / "report.html", (run,), results=tmp_path)


@pytest.mark.parametrize("commit", (None, 17, ["a"], "0123456789abcdef"))
def test_a_commit_of_any_kind_is_shown(results, commit):
    path = results / "ACDC/cml_7_seed1337_mini/config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes().decode()) | {"commit": commit, "command": None}),
                    encoding="utf-8")
    shown = page._origin(Kept(path.parent))
    assert (shown["commit"], shown["command"]) == (str(commit or "unknown")[:12], "unknown")


@pytest.mark.parametrize(("table", "text", "words"), [
    ("val.csv", "stage,step,split,fused\nself,1,val,high\n", "could not convert"),
    ("val.csv", "a,b\n1,2\n", "no stage"), ("val.csv", "a;b\n1;2\n", "semicolons"),
    ("val.csv", "stage,step,split\nself,1,val\n", "no Dice"), ("val.csv", b"stage,step,split,d\xe9\n", "damaged"),
    ("test_val_last.csv", b"case,class,dice\nd\xe9,1,1\n", "codec"),
    ("test_val_last.csv", "case,dice\na,x\n", "could not convert"), ("test_val_last.csv", "a;b\n1;2\n", "semicolons"),
    ("test_val_last.csv", "case,dice\na,1\n", "no asd")])
def test_a_foreign_table_is_one_line(results, tmp_path, table, text, words, capsys):
    path = results / "ACDC/cml_7_seed1337_mini" / table
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as left:
        reproduce.main(["report", "--output", str(tmp_path / "report.html"), "--results", str(results)])
    [*_, line] = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and line.startswith("error: ") and str(path) in line and words in line


# ---- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(tmp_path):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.browser
def test_in_a_browser(report, driver, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def painted():
        return canvas.get_attribute("data-painted")

    def wait_for(text):
        WebDriverWait(driver, 20).until(lambda _: painted() and text in painted())

    driver.get(report.as_uri())
    # a table sorts by its numbers, best first, then worst first; empty cells stay at the end
    table = driver.find_element(By.CSS_SELECTOR, "[aria-labelledby=mini_acdc7_mini] table")

    def column():
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(3)")]

    heading = table.find_elements(By.CSS_SELECTOR, "thead button")[2]
    assert [cell for cell in column() if cell] == ["51.00 ± 1.41", "66.00 ± 8.72"] and not any(column()[1:-1])
    heading.click()
    assert column()[:2] == ["66.00 ± 8.72", "51.00 ± 1.41"] and not any(column()[2:])
    heading.send_keys(Keys.ENTER)
    assert column()[:2] == ["51.00 ± 1.41", "66.00 ± 8.72"] and not any(column()[2:])
    # a row tells its runs
    name = table.find_elements(By.CSS_SELECTOR, "button.name")[1]
    assert "python code/train_ACDC.py <mini>" in name.get_attribute("title")
    name.click()
    assert "commit 0123456789ab" in table.find_element(By.CSS_SELECTOR, "tr.origin").text
    # a case opens, the slider moves, another layer and the disagreement are painted
    canvas = driver.find_element(By.ID, "canvas")
    driver.execute_script("arguments[0].scrollIntoView()", driver.find_element(By.ID, "cases"))
    wait_for("fused")
    cases = Select(driver.find_element(By.ID, "case"))
    second = cases.options[1].text.split(":")[0]
    cases.select_by_index(1)
    wait_for(f"{second} 1 fused")
    slider = driver.find_element(By.ID, "slice")
    slider.send_keys(Keys.ARROW_RIGHT)
    wait_for(f"{second} 2 fused")
    driver.find_element(By.CSS_SELECTOR, "input[value=reference]").click()
    wait_for(f"{second} 2 reference")
    pixels = driver.execute_script("const {width, height} = arguments[0]; return [...arguments[0].getContext('2d')"
                                   ".getImageData(0, 0, width, height).data]", canvas)
    assert len(set(pixels)) > 10                            # something is drawn
    viewer = driver.find_element(By.ID, "viewer")
    viewer.send_keys("3")
    wait_for(f"{second} 2 fused")
    viewer.send_keys("d")
    assert driver.find_element(By.ID, "disagreement").is_selected()
    viewer.send_keys(Keys.ARROW_LEFT)
    wait_for(f"{second} 1 fused")
    viewer.send_keys(Keys.ARROW_UP)
    wait_for(" 1 fused")
    assert second not in painted()
    assert driver.save_screenshot(str(tmp_path / "page.png")) and (tmp_path / "page.png").stat().st_size > 10_000
    # on a phone nothing but the tables is wider than the page
    driver.set_window_size(500, 900)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert driver.get_log("browser") == []
