"""A learner's notebook in a real JupyterLab, driven by a browser: run all, solve an exercise, see the check turn green."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bookshelf import PATIENCE, ROOT, need

from coursekit.course import choose
from coursekit.lesson import progress
from coursekit.lesson.lint import exercise_ids
from coursekit.lesson.notebook import read_source, tags

LESSON, NUMBER = "02", "02.2"
GREEN = "rgb(0, 158, 115)"  # of Okabe and Ito
SECONDS = 1200  # the whole lesson on a slow machine


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of the course's notebooks, as a learner has it; lib and data are those of the environment."""
    root = tmp_path / "course"
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return root


@pytest.fixture
def lab(course: Path, tmp_path: Path) -> Iterator[str]:
    """JupyterLab on localhost, without a password and without asking anyone for news; gives its address."""
    need("jupyterlab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "settings" / "@jupyterlab"
    # All cells are in the page, not only those on the screen
    _setting(settings / "notebook-extension" / "tracker.jupyterlab-settings", {"windowingMode": "none"})
    _setting(
        settings / "apputils-extension" / "notification.jupyterlab-settings",
        {"checkForUpdates": False, "fetchNews": "false"},
    )
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", "--allow-root", f"--ServerApp.root_dir={course}"),
        *(f"--LabApp.user_settings_dir={tmp_path / 'settings'}", f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}"),
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COURSEKIT_", "JPY_"))}
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        command, cwd=course, stdout=log, stderr=subprocess.STDOUT, env={**env, "OMP_NUM_THREADS": "1"}
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address + "api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _setting(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def test_run_all_solve_one_see_it_turn_green(chromium: Any, lab: str, course: Path) -> None:
    lesson = choose(course, [LESSON])[0]
    solution = next(
        cell["source"]
        for cell in read_source(lesson)["cells"]
        if "solution" in tags(cell) and cell["cell_type"] == "code" and exercise_ids(cell) == [NUMBER]
    )
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{lab}lab/tree/notebooks/{lesson.name}.ipynb")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()

    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for()  # the kernel is there
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for()
    code = page.locator(".jp-Notebook .jp-CodeCell")
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    # On a slow machine the kernel may say idle before the notebook is connected to it: then a dialog says that nothing ran
    for _ in range(5):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        if _within(30, lambda: any(text.strip() not in ("", "[ ]:") for text in prompts.all_inner_texts())):
            break
        for dialog in page.locator(".jp-Dialog").all():
            print(dialog.inner_text())
            page.keyboard.press("Escape")
    last = code.last.locator(".jp-InputPrompt").first
    _wait(lambda: re.search(r"\[\d+\]", last.inner_text()), "the last cell of the notebook to have run")
    shown = [text for text in prompts.all_inner_texts() if text.strip()]  # of a folded cell nothing is shown
    assert len(shown) > code.count() / 2
    assert all(re.search(r"\[\d+\]", text) for text in shown), shown
    counted = re.search(r"\[(\d+)\]", last.inner_text())
    assert counted
    assert int(counted[1]) == code.count()  # the kernel numbers what it runs: none was left out
    assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count() == 0

    cell = code.filter(has_text=f'check.exercise("{NUMBER}"')
    box = cell.locator(".jp-OutputArea-output div[style*=border-left]")
    assert box.inner_text().startswith(f"○ Exercise {NUMBER}: still open")
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(solution)
    page.keyboard.press("Control+Enter")
    _wait(lambda: box.inner_text().startswith(f"✓ Exercise {NUMBER}: right"), "the check to pass")
    assert box.evaluate("box => getComputedStyle(box).borderLeftColor") == GREEN
    context.close()

    solved = [number for _, number, passed in progress.attempts(course) if passed]
    assert solved == [NUMBER]
    assert f"✓ {NUMBER}" in progress.report(course)


def _within(seconds: float, happened: Any) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.5)
    return False


def _wait(happened: Any, what: str) -> None:
    if not _within(SECONDS, happened):
        pytest.fail(f"waited {SECONDS} seconds for {what}")
