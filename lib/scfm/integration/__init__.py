"""scGPT's fine-tuning on a study with batches.

study         a study as scGPT's fine-tuning reads it
recipe        its objectives on a new study
"""
