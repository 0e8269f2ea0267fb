"""A warning about our own code fails its test; one about another package's is shown (pyproject's filterwarnings)."""

from __future__ import annotations

import warnings

import pytest


def warn(module: str, category: type[Warning]) -> None:
    warnings.warn_explicit("old", category, filename="x.py", lineno=1, module=module)


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, RuntimeWarning, UserWarning])
@pytest.mark.parametrize("module", ["scfm", "scfm.models.registry", "studies.ladder", "coursekit.run.card"])
def test_ours_is_an_error(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="old"):
        warn(module, category)


def test_others_are_shown(recwarn: pytest.WarningsRecorder) -> None:
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warn("scfmlike.module", category)
    assert len(recwarn) == 3
