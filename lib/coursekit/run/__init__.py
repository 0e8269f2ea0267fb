"""A lesson runs: the engine, the card that says with what and with which results, and whether it is still current.

execute       one lesson: papermill, a page, a card
courserun     many lessons, with a table at the end
engine        papermill's engine, watched
card          the run card
runkey        what a run depends on, as one hash
last          the newest runs of a lesson
changed       which lessons a change can have touched
compare       recorded values against what they should be
expect        tests/notebooks/expected/NN.toml
verify        run a card again and compare
page          an executed notebook as one HTML file
data          data sets at hand before they are needed
maths         formulas as MathML
"""
