"""Teaching: schedule, handouts, slides, quizzes, a room without internet.

plan          which lessons and breaks fit into the hours
paper         the schedule and the instructor's notebooks, to print
slides        slides with speaker notes
quizpage      the quiz before and after
bundle        one archive for a room without internet
wheelhouse    its wheels
"""
