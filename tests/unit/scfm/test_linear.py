"""The one linear head: what it chooses, on which cells, and that wide features change nothing but the time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scfm import linear


def clouds(n: int = 30, d: int = 6, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, apart, (3, d))
    return centers[np.repeat(range(3), n)] + rng.normal(size=(3 * n, d)), np.repeat(list("abc"), n)


@pytest.mark.parametrize("d", [6, 400])
@pytest.mark.parametrize("scale", linear.SCALES)
def test_it_is_scikit_learns_logistic_regression_of_scaled_features(d: int, scale: str) -> None:
    x, names = clouds(d=d)
    found = linear.linear_head(x, names, scale=scale, strength=0.1)
    scaled = (x - x.mean(0)) / (x.std(0) if scale == "each" else np.sqrt(((x - x.mean(0)) ** 2).mean()))
    theirs = LogisticRegression(C=0.1, max_iter=2000, tol=1e-8).fit(scaled, names)
    np.testing.assert_allclose(linear.softmax(found.logits(x)), theirs.predict_proba(scaled), atol=2e-3)
    assert found.chosen == (scale, 0.1)


def test_noise_is_regularized_more_than_a_clear_signal() -> None:
    clear, names = clouds(apart=8.0)
    noise = np.random.default_rng(1).normal(size=clear.shape)
    assert linear.linear_head(noise, names).chosen[1] < linear.linear_head(clear, names).chosen[1]


def test_the_scale_that_helps_is_chosen() -> None:
    """A signal in two strong features among weak noise; and one in weak features beside loud noise."""
    rng = np.random.default_rng(2)
    signal, names = clouds(d=2, apart=2.0)
    weak_noise = np.hstack([signal, 0.05 * rng.normal(size=(90, 40))])
    loud_noise = np.hstack([0.05 * signal, 5 * rng.normal(size=(90, 1))])
    assert linear.linear_head(weak_noise, names).chosen[0] == "common"
    assert linear.linear_head(loud_noise, names, strength=1.0).chosen[0] in linear.SCALES
    assert linear.linear_head(loud_noise, names).chosen[0] == "each"


def test_the_choice_does_not_depend_on_cells_that_are_not_given() -> None:
    x, names = clouds()
    one, same = linear.linear_head(x[::2], names[::2]), linear.linear_head(x[::2].copy(), names[::2].copy())
    assert one.chosen == same.chosen
    np.testing.assert_array_equal(one.weight, same.weight)


def test_classes_of_one_cell_are_learned_and_never_held_out() -> None:
    x, names = clouds()
    few = np.r_[0:12, 30:42, 60]
    found = linear.linear_head(x[few], names[few])
    assert found.classes.tolist() == ["a", "b", "c"]
    alone = linear.linear_head(x[[0, 30, 60]], names[[0, 30, 60]])
    assert alone.chosen == ("common", 1.0)


def test_two_classes_have_two_logits_and_weights_of_classes_count() -> None:
    x, names = clouds(apart=0.3)
    two = names != "c"
    found = linear.linear_head(x[two], names[two], class_weight={"a": 1.0, "b": 1.0})
    assert found.logits(x).shape == (90, 2)
    assert found.n_parameters == 2 * 7
    leaning = linear.linear_head(x[two], names[two], class_weight={"a": 1.0, "b": 50.0})
    assert (leaning.predict(x[two]) == "b").sum() > (found.predict(x[two]) == "b").sum()


def test_another_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="'common', 'each'"):
        linear.linear_head(*clouds(), scale="none")
