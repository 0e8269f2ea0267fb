"""Any file in, whatever its size: read, brought into the course's form, encoded and embedded in shards.

readers         any of the usual file kinds → AnnData
refusals        what cannot be read, in words
counts          are these raw counts of human genes?
form            a file's content into the course's form
convert         listed sets made from the public files that carry them
recipes         how each is made: parts, genes, columns
raw_files       what its raw files hold
r_objects       objects of R, without R
columns         a column of cells, as a recipe describes it
technology      a second technology, simulated
census          a random slice of CZ CELLxGENE Census
tokenize_file   rank-encode a file of any size
shards          embed a file of any size, in parallel processes
"""
