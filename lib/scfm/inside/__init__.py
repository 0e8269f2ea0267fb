"""What a reader need not know: fast kernels, rows of sparse matrices, seeds, meters.

kernels       loops over a cell's genes, compiled
numbacache    where compiled loops are kept
rows          rows of sparse matrices, and the checks that come before the loops
seeded        random numbers that leave the caller's alone
meter         seconds, memory, energy
version       which version of the course this is
"""
