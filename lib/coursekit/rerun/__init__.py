"""Many runs: grids of lessons, atlases of cells, on a laptop or a cluster, and the board that compares them."""
