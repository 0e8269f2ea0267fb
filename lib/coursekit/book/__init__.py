"""The course as a book that works offline, and the README that is its door.

site          the whole book: ``make site``; Sphinx adds the page of search (search.html) and its index
lessonpage    a lesson as a page: stubs, hints, folded solutions, quizzes, code that only draws
pages         results, datasets, models, papers, the list of lessons
reference     what scfm offers, from its docstrings
glossary      terms, where each is first met, links to them
conceptmap    which lesson builds on which
sphinxparts   what Sphinx lacks: alt texts, links into the glossary, formulas without scripts
readme        the README's table of lessons and its map
"""
