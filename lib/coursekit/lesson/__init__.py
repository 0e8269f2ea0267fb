"""A lesson as text: its source, its notebooks, its rules, its exercises, what it records."""
