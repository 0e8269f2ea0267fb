"""The checkers of lesson @NN@: each says what was expected, and never raises."""

from coursekit.check import checker, need


@checker("@NN@.1", hints=["Count how often each label occurs.", "Divide the largest count by the number of labels."])
def majority(answer):
    found = answer(["B", "T", "T", "T"])
    need(found is not None, "Your function returns nothing yet.")
    need(abs(found - 0.75) < 1e-9, f"Of B, T, T, T three quarters are T; your function says {found}.")
    return "Right. No classifier should be praised for less."
