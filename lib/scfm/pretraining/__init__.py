"""The inside of :mod:`scfm.pretrain`: from a corpus to a small foundation model, and whether it learned anything.

corpus              many datasets on one set of genes
minibatches         masked genes, for Geneformer
value_minibatches   hidden values, for scGPT
training            the loop, resumable to the bit
pretrain_scgpt      a small scGPT
judge               has the small Geneformer learned anything?
judge_scgpt         has the small scGPT?
memory              what a network still knows of its pretraining
"""
