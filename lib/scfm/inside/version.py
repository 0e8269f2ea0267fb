"""Which version of the course is this? The one place that says it is pyproject.toml."""

from __future__ import annotations

import functools


@functools.cache
def version() -> str:
    """pyproject.toml's: from the installed package; where lib/ is only on the path (Colab), from the file itself."""
    from importlib import metadata

    try:
        return metadata.version("scfm-course")
    except metadata.PackageNotFoundError:
        import tomllib
        from pathlib import Path

        text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])
