"""Run a card's lesson again with the card's parameters, and compare what it records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coursekit.course import CourseError, choose
from coursekit.lesson.recording import in_words
from coursekit.run import card as cards
from coursekit.run.compare import OTHER_MACHINE, SAME_MACHINE, differences
from coursekit.run.execute import Run, run


def verify(root: Path, path: Path, folder: Path | None = None, bar: bool = False) -> tuple[list[str], bool]:
    """Re-run a card; returns (lines to print, whether all results agree).

    Raises CourseError where the card is of a run that failed, of a changed notebook file, or of a lesson that is gone.
    """
    old = cards.read(path)
    if old["status"] != "passed":
        raise CourseError(f"The run of {path} failed, so there is nothing to compare: {old.get('error', '')}")
    if old["edition"] not in ("solution", "learner"):
        raise CourseError(f"The card is of the file {old['edition']}, not of a lesson of the course; run it by hand.")
    again = run(
        choose(root, [old["lesson"]])[0],
        old["parameters"],
        edition=old["edition"],
        folder=folder,
        threads=old["threads"],
        bar=bar,
    )
    return report(old, again)


def report(old: dict[str, Any], again: Run) -> tuple[list[str], bool]:
    """The table of a comparison: each result then and now, with warnings about what is not the same behind them."""
    new = again.card
    lines = [f"note: {line}" for line in changes(old, new)]
    if not again.passed:
        return [*lines, f"The lesson failed this time: {new['error']}", f"See {again.folder / 'traceback.txt'}"], False
    default = SAME_MACHINE if old["device"] == new["device"] else OTHER_MACHINE
    lines += [f"{'result':<36} {'then':<24} {'now':<24} verdict", "-" * 100]
    good = True
    for name in dict.fromkeys([*old["results"], *new["results"]]):
        was, now = old["results"].get(name), new["results"].get(name)
        if was is None or now is None:
            verdict, problems = ("NEW" if was is None else "MISSING"), []
        else:
            problems = differences(was["value"], now["value"], was["tolerance"], default)
            verdict = "DIFFERS" if problems else "not compared" if was["tolerance"] == "any" else "same"
        good &= verdict in ("same", "not compared")
        then, today = ("-" if entry is None else in_words(entry["value"], 24) for entry in (was, now))
        lines.append(f"{name:<36} {then:<24} {today:<24} {verdict}")
        lines += [f"    {problem}" for problem in problems[:10]]
        if len(problems) > 10:
            lines.append(f"    and {len(problems) - 10} more")
    lines.append("All results agree." if good else "Some results differ.")
    return lines, good


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is not the same behind two cards: code, lock, data, models, Python, machine."""
    found = []
    for name, state in (("then", old["git"]), ("now", new["git"])):
        if state["dirty"]:
            found.append(f"the tree had uncommitted changes {name}, so the commit alone does not tell the code.")
    pairs = [("commit", old["git"]["commit"], new["git"]["commit"]), ("lock", old["lock_sha256"], new["lock_sha256"])]
    pairs += [("Python", old["python"], new["python"]), ("machine", old["device"]["cpu"], new["device"]["cpu"])]
    pairs += [("GPU", old["device"]["gpus"], new["device"]["gpus"])]
    found += [f"{what} differs: {was or 'none'} then, {now or 'none'} now." for what, was, now in pairs if was != now]
    before, after = ({(e["kind"], e["name"]): e.get("sha256") for e in card["used"]} for card in (old, new))
    for kind, name in dict.fromkeys([*before, *after]):
        if before.get((kind, name)) != after.get((kind, name)):
            found.append(f"the {kind} {name} is not the same file.")
    return found
