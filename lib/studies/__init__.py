"""The experiments behind the lessons: each makes a table of ``data/results``, shard by shard.

depth               what a cell's depth does to its encodings
gene_guessers       who guesses a hidden gene, and what simple guessers reach
ladder              every rung at every label budget
own_cells           the ladder's question of cells of one's own
sweep               LoRA at every rank and place, and its relatives
forgetting          what each rung forgets
seen                where on the way into a network is the answer lost?
headstudy           new donors, new technologies, unknown types
generated           completed cells and generated ones: who is ahead?
ablation            each of scGPT's objectives left out in turn
gene_families       classes of genes
judge_geneformer    has the small Geneformer learned anything?
judge_scgpt         has the small scGPT?
judge               the cards of the minis: ``python -m studies.judge FOLDER``
judging             what all cards have in common
sets                which cells of a set count
scale               what more cells and a larger network would bring
tables              stored tables that grow, piece by piece
comparisons         from a few draws to verdicts
ladder_figure       the figure of the course
"""
