"""The README's table comes from kept cards, forgets what has changed, and says what was not measured."""

from __future__ import annotations

import json
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from tiny_course import LESSON, make_course

from coursekit.book import conceptmap, readme
from coursekit.course import CourseError, lessons
from coursekit.lesson.recording import HEADLINE, Recorder
from coursekit.run import card as cards
from coursekit.run import expect
from coursekit.run.execute import run

README = "# A course\n\n<!-- map -->\n<!-- /map -->\n\n<!-- lessons -->\n<!-- /lessons -->\n"
HEAD = (
    "import types\n"
    'record.headline("doubled, minus once", types.SimpleNamespace(mean=-0.5, low=-0.75, high=0.25), cells="three cells")\n'
    'record("double", 2.0'
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_course(tmp_path_factory.mktemp("ran"), LESSON.replace('record("double", 2.0', HEAD, 1))
    (root / "README.md").write_text(README)
    assert run(lessons(root)[0]).passed
    return root


def row(root: Path) -> list[str]:
    """Of the first table: lesson, network, cells, key result."""
    return rows(root)[0]


def costs(root: Path) -> list[str]:
    """Of the second: lesson, minutes to learn, CPU, GPU, memory."""
    return rows(root)[1]


def rows(root: Path) -> list[list[str]]:
    lines = [line for line in readme.table(root).splitlines() if line.startswith("|") and "01 ·" in line]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def test_a_run_is_kept_and_shown_and_forgotten_when_the_lesson_changes(ran: Path) -> None:
    assert costs(ran)[2:] == ["not measured", "not measured", ""]
    assert row(ran)[1:] == ["", "", "not measured"]
    kept = readme.keep(ran)["01_tiny"]
    assert set(kept) == {"cpu"}
    cells = row(ran)
    assert (
        cells[0]
        == "[01 · Is two more than one?](notebooks/01_tiny.ipynb) ([solutions](notebooks/solutions/01_tiny.ipynb))"
    )
    assert cells[1:] == [
        "none",
        "three cells",
        "doubled, minus once: **-0.500** [-0.750, +0.250] over draws, undecided",
    ]
    price = costs(ran)
    assert price[1] == "5 min"
    assert price[3] == "not measured"
    assert price[4].endswith("GiB")
    assert "Of 1 such intervals 0.1 would be decided by chance" in readme.table(ran)
    text = lessons(ran)[0].source.read_text()
    lessons(ran)[0].source.write_text(text.replace("Is two more", "Is three more"))
    assert row(ran)[3] == "not measured"
    assert readme.keep(ran) == {}  # the run is one of another text
    lessons(ran)[0].source.write_text(text)
    assert set(readme.keep(ran)["01_tiny"]) == {"cpu"}


def test_a_gpu_run_made_elsewhere_is_taken_only_from_a_gpu(ran: Path, tmp_path: Path) -> None:
    folder = run(lessons(ran)[0], {"profile": "gpu"}, folder=tmp_path / "01_tiny").folder

    def change(**more: Any) -> None:
        cards.write(folder / "card.json", cards.read(folder) | more)

    change(device={"cpu": "x", "cores": 2, "gpus": []})
    assert "gpu" not in readme.keep(ran, [tmp_path])["01_tiny"]
    change(device={"cpu": "x", "cores": 2, "gpus": ["Card 3000, 80 GiB"]}, seconds=120.0)
    usual = cards.read(folder)["parameters"]
    change(parameters=usual | {"dataset": "smaller"})
    assert "gpu" not in readme.keep(ran, [tmp_path])["01_tiny"]
    change(parameters=usual)
    assert readme.keep(ran, [tmp_path])["01_tiny"]["gpu"]["device"] == "Card 3000, 80 GiB"
    assert costs(ran)[3] == "2.0 min"
    assert "GPU: profile `gpu` on Card 3000" in readme.table(ran)


def test_the_readme_is_written_once_and_checked(ran: Path) -> None:
    assert "out of step" in readme.refresh(ran, write=False)[0]
    assert readme.refresh(ran, write=True) == []
    assert readme.refresh(ran, write=False) == []
    picture = ran / readme.MAP
    assert picture.as_posix().removeprefix(f"{ran.as_posix()}/") in (ran / "README.md").read_text()
    picture.write_text("another")
    assert "out of step" in readme.refresh(ran, write=False)[0]


def test_the_map_is_a_picture_of_its_own_for_light_and_dark() -> None:
    stops = [
        conceptmap.Stop("01", 'What is "a" <cell>?', "lessons/01.html", words=["gene", "cell", "count", "rank"]),
        conceptmap.Stop("02", "And then?", "lessons/02.html", ["01"]),
    ]
    text = conceptmap.picture(stops)
    tree = ET.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(tree.attrib["width"]) > 100
    assert "And then?" in tree.attrib["aria-label"]
    assert "prefers-color-scheme:dark" in text
    assert "href" not in text
    assert "rank" not in text  # only the first words
    assert len(text) < 10_000


def test_a_headline_is_a_mean_inside_its_interval(ran: Path) -> None:
    results = {HEADLINE: {"value": {"what": "x", "mean": 1.0, "low": 0.5, "high": 1.5}, "tolerance": "any"}}
    assert expect.judge({"values": {}, "invariants": []}, results) == []
    for bad in (
        {"what": "x", "mean": 2.0, "low": 0.5, "high": 1.5},
        {"what": "x", "mean": "NaN", "low": 0, "high": 1},
        3,
    ):
        results[HEADLINE]["value"] = bad
        assert "no mean inside its interval" in expect.judge({"values": {}, "invariants": []}, results)[0]


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "ahead"),
    [
        (0.1, 0.3, False, "model"),
        (-0.3, -0.1, False, "baseline"),
        (-0.3, -0.1, True, "model"),
        (0.1, 0.3, True, "baseline"),
        (-0.1, 0.1, True, "undecided"),
        (float("nan"), float("nan"), False, "undecided"),
    ],
)
def test_the_headline_says_who_is_ahead(monkeypatch, tmp_path, low, high, lower_is_better, ahead) -> None:
    said = {}
    monkeypatch.setattr(Recorder, "__call__", lambda self, name, value, **how: said.update({name: value}))
    difference = types.SimpleNamespace(mean=(low + high) / 2, low=low, high=high)
    Recorder().headline("x", difference, lower_is_better, stored=True)
    assert said[HEADLINE]["ahead"] == ahead
    assert said[HEADLINE]["stored"]


def test_a_lesson_may_have_no_verdict_and_says_why(monkeypatch) -> None:
    said = {}
    monkeypatch.setattr(Recorder, "__call__", lambda self, name, value, **how: said.update({name: value}))
    Recorder().headline("thirty steps are no basis for a verdict", None)
    assert (
        expect.judge({"values": {}, "invariants": []}, {HEADLINE: {"value": said[HEADLINE], "tolerance": "any"}}) == []
    )
    assert readme._result({HEADLINE: said[HEADLINE]}) == "thirty steps are no basis for a verdict"


def test_cards_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    root = make_course(tmp_path)
    (root / readme.KEPT).parent.mkdir(parents=True)
    (root / readme.KEPT).write_text(json.dumps({})[:1])
    with pytest.raises(CourseError, match="make readme"):
        readme.table(root)


def test_the_readme_says_what_the_benchmarks_measured() -> None:
    root = Path(__file__).resolve().parents[4]
    text = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    sizes = json.loads((root / "data" / "results" / "bench_atlas.json").read_text())["sizes"]
    first, second, third = (f"{size['cells_per_second']:.0f}" for size in sizes)
    assert f"{first}, {second} and {third} cells per second" in text
    assert [size["cells"] for size in sizes] == [10_000, 100_000, 1_000_000]
    assert max(size["peak_gib"] for size in sizes) < 0.7
