"""The parameters of a lesson, read from its parameters cell, and what a person gives for them."""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import json
import os
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.lesson.notebook import tags

_CHOICES = re.compile(r"^([\w.+-]+(?:\s*\|\s*[\w.+-]+)+)\s*(?::|$)")
# what a dataset of one's own may end in
FILES = (".h5ad", ".h5", ".h5mu", ".zarr", ".loom", ".mtx", ".csv", ".tsv", ".rds", ".gz", ".zip", ".tar")
_NAMES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One parameter: its ``name``, accepted ``types`` (empty = any), ``default``, ``choices`` (empty = any) and ``help``."""

    name: str
    types: tuple[str, ...]
    default: Any
    choices: tuple[str, ...] = ()
    help: str = ""

    def describe(self) -> str:
        """One line for an error message or a listing."""
        kind = " | ".join(self.choices) if self.choices else " | ".join(self.types) or "anything"
        return f"{self.name} ({kind}; default {self.default!r})" + (f"  {self.help}" if self.help else "")


def parameters_of(notebook: Any) -> dict[str, Parameter]:
    """The parameters of a lesson's parameters cell, in order.

    Raises CourseError where there is not exactly one such cell, or where it does more than assign plain values.
    """
    cells = [cell for cell in notebook["cells"] if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise CourseError(f"there must be one cell with the tag parameters; there are {len(cells)}.")
    return assignments(cells[0]["source"])


def assignments(source: str) -> dict[str, Parameter]:
    """The parameters that the source of a cell sets. Raises CourseError where it does more than assign plain values."""
    comments = _comments(source)
    found: dict[str, Parameter] = {}
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise CourseError(f"the parameters cell is no valid Python: {error}") from error
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        target = targets[0] if len(targets) == 1 else None
        value = getattr(node, "value", None)
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(target, ast.Name) or value is None:
            raise CourseError(f"the parameters cell may only hold `name = value` lines, not: {ast.unparse(node)}")
        try:
            default = ast.literal_eval(value)
        except ValueError as error:
            words = f"the parameter {target.id} must have a plain value, not: {ast.unparse(value)}"
            raise CourseError(words) from error
        if isinstance(node, ast.AnnAssign):
            types = tuple(part.strip().split("[")[0] for part in ast.unparse(node.annotation).split("|"))
        else:
            types = () if default is None else (type(default).__name__,)
        comment = comments.get(node.end_lineno or 0, "")
        listed = _CHOICES.match(comment)
        choices = tuple(part.strip() for part in listed[1].split("|")) if listed and isinstance(default, str) else ()
        found[target.id] = Parameter(target.id, types, default, choices, comment)
    return found


def _comments(source: str) -> dict[int, str]:
    found = {}
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def accept(known: dict[str, Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with each value checked against the parameter it is for; int is taken for float.

    Raises CourseError for an unknown name, a wrong type or a value that is not among the choices; it names all that exist
    (papermill itself only warns about an unknown name, and the lesson then runs with its default).
    """
    listing = " The parameters are:\n" + "\n".join(f"  {parameter.describe()}" for parameter in known.values())
    accepted = {}
    for name, value in given.items():
        if name not in known:
            raise CourseError(f"This lesson has no parameter {name!r}.{_closest(name, known)}{listing}")
        parameter = known[name]
        fits, value = _fit(parameter, value)
        if not fits:
            wanted, kind = " or ".join(parameter.types), type(value).__name__
            raise CourseError(f"The parameter {name} is {wanted}, and {value!r} is {kind}.{listing}")
        if parameter.choices and value not in parameter.choices:
            raise CourseError(f"The parameter {name} is one of {', '.join(parameter.choices)}, not {value!r}.{listing}")
        accepted[name] = value
    return accepted


def _fit(parameter: Parameter, value: Any) -> tuple[bool, Any]:
    if not parameter.types:
        return True, value
    for word in parameter.types:
        kind = _NAMES.get(word)
        if word == "None" and value is None:
            return True, value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return True, float(value)
        if kind is not None and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True, value
    return False, value


def from_words(known: dict[str, Parameter], words: Sequence[str]) -> dict[str, Any]:
    """Parameters from the command line, each ``name=value``, read as the type that the parameter has.

    A value that does not read as that type is handed on as text, and ``accept`` then says what was expected.
    """
    given = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise CourseError(f"Write a parameter as name=value, not {word!r}.")
        types = known[name].types if name in known else ()
        given[name] = _read(types, text)
    return given


def files_from(given: dict[str, Any], start: Path) -> dict[str, Any]:
    """``given`` with files of one's own named in full: a lesson runs in another folder than the one you typed in.

    A dataset (several are joined by +) or a model that exists as seen from ``start`` becomes its full path; names of the course's
    lists stay, also where a file happens to be called so, and so do all other values. Raises CourseError for a dataset that can
    only be a file and is not there.
    """
    from scfm import datasets
    from scfm.store import hub

    found = dict(given)
    for name in ("dataset", "model"):
        if not isinstance(found.get(name), str):
            continue
        whole = []
        for part in datasets.split_names(found[name], start):
            path = Path(part).expanduser()
            looks_like_file = path.name != part or path.suffix.lower() in FILES
            of_models = name == "model" and hub.plain_name(part) in hub.catalogue()["models"]
            listed = of_models or (name == "dataset" and part in datasets.entries())
            if part and not listed and os.path.exists(start / path):  # False also for a name too long for one
                part = str((start / path).resolve())
            elif looks_like_file and name == "dataset" and part:
                raise CourseError(f"There is no file {part} (seen from {start}).")
            whole.append(part)
        found[name] = "+".join(whole)
    return found


def _read(types: tuple[str, ...], text: str) -> Any:
    if "None" in types and text == "None":
        return None
    if "bool" in types and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    readers: list[Any] = [_NAMES[word] for word in ("int", "float") if word in types]
    readers += [json.loads, ast.literal_eval] if {"list", "dict"} & set(types) or not types else []
    for reader in readers:
        with contextlib.suppress(ValueError, SyntaxError):
            return reader(text)
    return text


def _closest(name: str, known: dict[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
