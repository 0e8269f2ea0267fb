"""The inside of :mod:`scfm.adapt`: what is trained, how, what it cost, and what becomes of it.

choices         every option with its default
labels          labels in, class numbers out; what is watched
tasks           cells with classes, or genes with classes
features        what a head reads
heads           from a vector to an answer
readout         a linear head on any features
adapters        which weights move, and what peft adds
quantize        a frozen base in 4 or 8 bits
loop            the training loop, with checkpoints
fit             what ``adapt`` returns
fitscores       its scores, per class and batch
saving          a fit on disk
modelcard       its model card
calibration     is 90 % sure right nine times in ten?
openset         none of these?
gene_families   classes of genes
"""
