"""The course as a book that works offline, and the README that is its door."""
