"""Where files are found, fetched from, verified and put.

cache         the folders of SCFM_CACHE; whole files or none
hub           released checkpoints, by name
download      files from the internet, resumed and verified
carriers      raw files of public repositories, each proved by its git blob SHA-1
results       the stored tables
"""
