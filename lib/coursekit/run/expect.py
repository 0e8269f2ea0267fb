"""What the recorded values of a lesson must be: tests/notebooks/expected/NN.toml, one table per profile.

::

    [quick]
    invariants = ["nmi['pca'] > 0.3", "abs(shift) < 2000"]
    [quick.values]
    n_cells = 700
    shift = { value = 812.0, tolerance = 25 }
"""

from __future__ import annotations

import ast
import json
import math
import operator
import tomllib
from collections.abc import Callable
from typing import Any

from coursekit.course import CourseError, Lesson
from coursekit.lesson.recording import HEADLINE, SPECIAL, in_words, number
from coursekit.run.compare import OTHER_MACHINE, differences

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in (abs, all, any, len, max, min, round, sorted, sum)},
    "isnan": lambda value: math.isnan(value),
}
_METHODS = ("items", "keys", "values")
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ALLOWED = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub,
    ast.Mult, ast.Div, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Subscript, ast.List, ast.Tuple, ast.Dict, ast.Call,
    ast.GeneratorExp, ast.ListComp, ast.comprehension, ast.Attribute, *_COMPARE,
)  # fmt: skip


def load(lesson: Lesson, profile: str) -> dict[str, Any]:
    """The expectations of a profile: {"values": {name: {"value", "tolerance"}}, "invariants": [...]}.

    Raises CourseError where the file or the profile is missing, or where it is not readable.
    """
    path = lesson.expected
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"python -m coursekit run {lesson.number} && python -m coursekit expect {lesson.number} --write"
        words = f"{path.name} is missing, so nobody checks this lesson's results. Draft it: {hint}"
        raise CourseError(words) from error
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{path.name} is no valid TOML: {error}") from error
    if profile not in content:
        raise CourseError(f"{path.name} has no table [{profile}].")
    part = content[profile]
    extra = set(part) - {"values", "invariants"}
    if extra:
        raise CourseError(f"{path.name} [{profile}] has unknown keys: {', '.join(sorted(extra))}.")
    values = {name: _entry(entry) for name, entry in part.get("values", {}).items()}
    return {"values": values, "invariants": part.get("invariants", [])}


def _entry(entry: Any) -> dict[str, Any]:
    if isinstance(entry, dict) and "value" in entry and set(entry) <= {"value", "tolerance"}:
        return {"value": _words(entry["value"]), "tolerance": entry.get("tolerance")}
    return {"value": _words(entry), "tolerance": None}


def _words(value: Any) -> Any:
    """TOML's nan and inf as the words in which a card keeps them."""
    if isinstance(value, dict):
        return {key: _words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_words(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def judge(expected: dict[str, Any], results: dict[str, dict[str, Any]]) -> list[str]:
    """Everything in which a card's ``results`` are not as expected, one line each; empty where all is well.

    Every recorded name must be stated as a value or used in an invariant: a result that nobody checks is an error too.
    """
    problems = []
    for name, entry in expected["values"].items():
        if name not in results:
            problems.append(f"{name} was expected, and the lesson did not record it.")
            continue
        found = differences(entry["value"], results[name]["value"], entry["tolerance"], OTHER_MACHINE)
        problems += [f"{name}: {line}" for line in found]
    values = {name: _numbers(entry["value"]) for name, entry in results.items()}
    used: set[str] = set()
    for text in expected["invariants"]:
        used |= _names(text)
        try:
            holds = evaluate(text, values)
        except (CourseError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            problems.append(f"the invariant {text!r} cannot be evaluated: {type(error).__name__}: {error}")
            continue
        if not holds:
            said = [f"{name} = {in_words(results[name]['value'])}" for name in sorted(_names(text) & set(values))]
            problems.append(f"{text} does not hold: {', '.join(said)}")
    if HEADLINE in results:
        problems += _headline(results[HEADLINE]["value"])
    for name in results:
        if name != HEADLINE and name not in used and name not in expected["values"]:
            problems.append(f"{name} is recorded and nobody checks it: state its value or use it in an invariant.")
    return problems


def _headline(plain: Any) -> list[str]:
    """What is wrong with the headline: it is a mean inside its interval, or a sentence why there is none.

    What it rests on is recorded and checked elsewhere. An interval that is not known (of two groups, say) has NaN bounds.
    """
    if isinstance(plain, dict) and "mean" not in plain and plain.get("what"):
        return []
    low, mean, high = (number(plain.get(key)) if isinstance(plain, dict) else None for key in ("low", "mean", "high"))
    if low is None or mean is None or high is None or not low <= mean <= high:
        return [f"the headline is no mean inside its interval: {in_words(plain)}"]
    return []


def _numbers(plain: Any) -> Any:
    """A recorded value with NaN and infinity as numbers again."""
    if isinstance(plain, dict):
        return {key: _numbers(item) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_numbers(item) for item in plain]
    return SPECIAL.get(plain, plain) if isinstance(plain, str) else plain


def _names(text: str) -> set[str]:
    try:
        return {node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError:
        return set()


def evaluate(text: str, values: dict[str, Any]) -> bool:
    """The truth of an invariant over recorded values.

    Raises CourseError for anything beyond arithmetic, comparisons, subscripts, comprehensions and a few plain functions.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise CourseError(f"not an expression: {error.msg}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise CourseError(f"{type(node).__name__} is not allowed in an invariant.")
        if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
            raise CourseError(f".{node.attr} is not allowed in an invariant.")
    known = {**_FUNCTIONS, **values}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    unknown = _names(text) - set(known) - bound
    if unknown:
        raise CourseError(f"no such recorded value: {', '.join(sorted(unknown))} (recorded: {', '.join(values)})")
    result = eval(compile(tree, "<invariant>", "eval"), {"__builtins__": {}, **known})  # only nodes of _ALLOWED
    if not isinstance(result, bool):
        raise CourseError(f"gives {result!r}, not true or false.")
    return result


def draft(card: dict[str, Any]) -> str:
    """A first version of the expectations from a card, for a person to think over: tolerances are guesses of 5 %."""
    profile = card["parameters"].get("profile", "quick")
    lines = [f"[{profile}]", "invariants = [", "]", "", f"[{profile}.values]"]
    for name, entry in card["results"].items():
        if entry["tolerance"] == "any":
            continue
        has_float = any(isinstance(leaf, float) for leaf in _leaves(entry["value"]))
        tolerance = entry["tolerance"] if entry["tolerance"] is not None else "5%" if has_float else None
        if any(leaf is None for leaf in _leaves(entry["value"])):
            lines.append(f"# {name} holds None, for which TOML has no word: use it in an invariant.")
            continue
        value = _toml(entry["value"])
        name = name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)
        more = f", tolerance = {_toml(tolerance)}" if tolerance is not None else ""
        lines.append(f"{name} = {{ value = {value}{more} }}")
    return "\n".join(lines) + "\n"


def _leaves(plain: Any) -> list[Any]:
    if isinstance(plain, dict):
        return [leaf for item in plain.values() for leaf in _leaves(item)]
    return [leaf for item in plain for leaf in _leaves(item)] if isinstance(plain, list) else [plain]


def _toml(plain: Any) -> str:
    if isinstance(plain, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in plain.items()) + " }"
    if isinstance(plain, list):
        return "[" + ", ".join(_toml(item) for item in plain) + "]"
    if isinstance(plain, str) and plain in SPECIAL:
        return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[plain]
    return f"{plain:.6g}" if isinstance(plain, float) and plain != int(plain) else json.dumps(plain, ensure_ascii=False)
