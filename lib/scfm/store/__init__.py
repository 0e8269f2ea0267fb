"""Where files are found, fetched from, verified and put."""
