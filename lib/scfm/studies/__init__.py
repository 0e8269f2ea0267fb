"""The experiments behind the lessons: each makes a table of ``data/results``, shard by shard.

study           a study as scGPT's fine-tuning reads it
finetune        scGPT's objectives on a new study
ablation        each objective left out in turn
headstudy       new donors, new technologies, unknown types
sweep           LoRA at every rank and place, and its relatives
forgetting      what each rung forgets
seen            where on the way into a network is the answer lost?
comparisons     from a few draws to verdicts
ladder_figure   the figure of the course
"""
