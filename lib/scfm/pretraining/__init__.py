"""From a corpus to a small foundation model: ``python -m scfm.pretraining geneformer-mini``.

corpus              many datasets on one set of genes
minibatches         masked genes, for Geneformer
value_minibatches   hidden values, for scGPT
training            the loop, resumable to the bit
geneformer_mini     a small Geneformer
scgpt_mini          a small scGPT
scgpt_settings      all that decides its result
questions           what a pretraining asked, to be asked again
geneformer_questions, scgpt_questions    of each kind of model
"""
