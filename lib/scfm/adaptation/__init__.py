"""What ``scfm.adapt`` does: what is trained, how, what it cost, and what becomes of it.

adapting        the function itself, in steps
choices         every option with its default
labels          labels in, class numbers out; what is watched
tasks           cells with classes, or genes with classes
features        what a head reads
heads           from a vector to an answer
adapters        which weights move, and what peft adds
quantize        a frozen base in 4 or 8 bits
replay          what a network still knows of its pretraining, and how not to lose it
loop            the training loop, with checkpoints
reading         which layer, pooling and precision
report          the price and the course of a fit
fitted          what was adapted, and its answers
fit             what ``adapt`` returns
fitscores       its scores, per class and batch
saving          a fit to disk
loading         and back: ``scfm.load_fit``
modelcard       its model card
openset         none of these?
"""
