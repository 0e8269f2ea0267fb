"""The machine: what it has, what it lacks, and which versions the course was tested with."""
