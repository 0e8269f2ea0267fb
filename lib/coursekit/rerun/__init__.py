"""Many runs: grids of lessons, atlases of cells, on a laptop or a cluster, and the board that compares them.

grid          lessons × datasets × models × seeds
gridrun       make a grid: what is missing runs
atlas         millions of cells in shards
snakemake     Snakemake, called for a plan
watchdog      a job ends with the process that ordered it
board         from the scores of many runs to one table with intervals and tests
boardpage     the leaderboard for people
"""
