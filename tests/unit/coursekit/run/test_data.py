"""``make data``: which sets a word means, what is told about each, and a run that is killed half way and started again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from carrier_server import CarrierServer
from processes import kill_and_wait, wait_for

from coursekit.course import PROFILES, CourseError, find_root, lessons
from coursekit.lesson.sets import sets_of
from coursekit.run import data
from scfm.datasets import entries
from scfm.files.convert import carriers
from scfm.store.carriers import FOLDER, MIRROR, Carrier

ROOT = find_root(Path(__file__))
CORPUS = tomllib.loads((ROOT / data.CORPORA).read_text(encoding="utf-8"))["mini"]["train"]
FOUR = ["pbmc_zheng_facs", "kang_ifnb_pbmc", "lung_celllines_5batch", "pancreas_baron_175"]
FIVE = [FOUR[0], FOUR[1], FOUR[3], "kang_ifnb_muscat_1267genes", FOUR[2]]
SMALL = ["pancreas_baron_175", "malt_tumour_rna", "covid_pt17_cite"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("03 cpu", FOUR),
        ("3 quick", ["pbmc68k", "pbmc68k-2batch"]),
        ("04_head gpu", FIVE),
        ("07", ["pbmc68k-2batch", "lung_celllines_5batch", "kang_ifnb_muscat_1267genes"]),
        ("06 gpu", ["pbmc_zheng_facs"]),  # its sizes are those of another profile, changed
        ("mini", CORPUS),
        ("kang_ifnb_pbmc pbmc3k kang_ifnb_pbmc", ["kang_ifnb_pbmc", "pbmc3k"]),
        ("05 03 cpu pbmc3k", ["kang_ifnb_pbmc", FOUR[0], *FOUR[2:], "pbmc3k"]),
        ("quick", ["pbmc68k", "pbmc68k-2batch"]),
    ],
)
def test_words_and_the_sets_that_they_mean(words: str, names: list[str]) -> None:
    assert data.wanted(ROOT, words.split()) == names


def test_every_lesson_takes_a_set_in_every_profile() -> None:
    for lesson in lessons(ROOT):
        for profile in PROFILES:
            found = sets_of(lesson, profile)
            assert found, f"{lesson.name} {profile}"
            assert profile != "quick" or all(entries()[name]["source"] in ("bundled", "simulated") for name in found)


def test_a_word_that_means_nothing() -> None:
    with pytest.raises(
        CourseError, match=r"'minni' is no data set, no corpus \(mini\).* Did you mean mini\?.*make data FOR="
    ):
        data.wanted(ROOT, ["minni"])


def test_a_set_that_cannot_be_had_does_not_hold_up_the_others(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    server = CarrierServer({})
    monkeypatch.setenv(MIRROR, server.url)
    said: list[str] = []
    rows = data.prepare(["pbmc3k", "pbmc68k"], said.append)
    server.close()
    assert [row.name for row in rows if row.why] == ["pbmc3k"]
    assert said[:2] == ["[1/2] pbmc3k", said[1]]
    assert "not to be had: pbmc3k cannot be made" in said[1]
    table = data.table(rows)
    assert re.search(r"pbmc3k +[\d.]+ +not here +packages MIT", table)
    assert re.search(r"pbmc68k +700 +765 +1,772,368 +[\d.]+ +was here +scanpy", table)
    assert table.endswith("1 of 2 sets are here: 700 cells, 1.8 MB.")


@pytest.fixture
def stock(shared: Callable[[str], Path]) -> dict[Carrier, bytes]:
    """The raw files of three small sets, from a folder of SCFM_CACHE."""
    found = {}
    for name in SMALL:
        for carrier in carriers(name, entries()).values():
            found[carrier] = shared(f"{FOLDER}/{carrier.name}").read_bytes()
    return found


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(
    stock: dict[Carrier, bytes], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while the last set's file arrives: the next run makes the rest, and fetches no byte twice."""
    monkeypatch.setenv("NO_PROXY", "*")
    server = CarrierServer(stock)
    server.wait = 0.02
    monkeypatch.setenv(MIRROR, server.url)
    command = [sys.executable, "-m", "coursekit", "--root", str(ROOT), "data", *SMALL]
    last = next(iter(carriers(SMALL[-1], entries()).values()))
    part = empty_cache / FOLDER / f".{last.name}.part"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, text=True, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(lambda: part.is_file() and part.stat().st_size >= 1 << 20, 120)
    kill_and_wait(first, whole_group=True)
    arrived = part.stat().st_size
    made = {path.name: path.stat().st_mtime_ns for path in (empty_cache / "converted").glob("*.h5ad")}
    assert set(made) == {f"{name}.h5ad" for name in SMALL[:-1]}
    server.requests.clear()
    server.wait = 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    server.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.requests == [(f"/{last.repo}/{last.commit}/{last.path}", f"bytes={arrived}-")]
    folder = empty_cache / "converted"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.h5ad" for name in SMALL)
    assert all((folder / name).stat().st_mtime_ns == when for name, when in made.items())
    left = [path for path in empty_cache.rglob("*") if path.suffix in (".part", ".from")]
    assert left == []
    for name, came in zip(SMALL, ["was here", "was here", "made"], strict=True):
        size = f"{entries()[name]['cells']:,} +{entries()[name]['genes']:,}"
        assert re.search(rf"(?m)^{name} +{size} +[\d,]+ +[\d.]+ +{came} +\S", done.stdout)
    assert "3 of 3 sets are here: 1,595 cells" in done.stdout
