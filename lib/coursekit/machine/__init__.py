"""The machine: what it has, what it lacks, and which versions the course was tested with.

facts         processor, GPUs, packages, commit
doctor        one line per question, and the command that ends each trouble
lock          requirements*.lock with hashes, and environment.yml
"""
