"""scGPT's fine-tuning on a study with batches."""
