"""What a reader need not know: fast kernels, rows of sparse matrices, seeds, meters."""
