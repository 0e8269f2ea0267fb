"""A lesson as text: its source, its notebooks, its rules, its exercises, what it records.

notebook      from one source to its editions
build         write the notebooks, or check that they are what the source says
lint          the form of a lesson
params        its parameters, and what a person gives for them
sets          which data sets it takes in a profile
facts         its title, table, key points, further reading
outline       its sections with minutes, for who teaches it
quiz          a quiz cell's question, options and fold-outs
progress      which exercises a learner has solved
recording     ``record("name", value)``
scores        every draw, for the leaderboard
resume        run the solution up to a place
bootstrap     the first cell, where the course is not installed
new           begin a lesson, a data set, a model
"""
