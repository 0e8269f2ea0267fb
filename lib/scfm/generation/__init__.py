"""What ``scfm.generate`` does: who may look at whom, the steps, and what a generated cell is worth.

generating          the function itself, and what it returns
attention_mask      who may look at whom
prompts             what a generated cell begins with
answer          what a network says of the asked genes
kstep               the steps of generation
confidence          how sure is the network?
completion          does it help to guess in K steps?
simple_generators   what has to be beaten
yardsticks          six questions to generated cells
pictures            masks, steps and cells as pictures
"""
