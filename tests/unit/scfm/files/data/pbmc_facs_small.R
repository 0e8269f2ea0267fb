# Wrote pbmc_facs_small.RData: twelve cells and nine genes in the layout that the R package fastTopics documents for pbmc_facs.
#   Rscript pbmc_facs_small.R
library(Matrix)
genes <- data.frame(
  ensembl = sprintf("ENSG%011d", c(111640, 105369, 177455, 204287, 90382, 163220, 167286, 153563, 115523)),
  symbol = c("GAPDH", "CD79A", "CD19", "HLA-DRA", "LYZ", "S100A9", "CD3D", "CD8A", "GNLY"),
  stringsAsFactors = FALSE
)
population <- rep(c("b_cells", "cd56_nk", "cytotoxic_t"), 4)
samples <- data.frame(
  barcode = sprintf("ACGTACGTAC%s-1", strsplit("AAAC AAAG AAAT AACA AACC AACG AACT AAGA AAGC AAGG AAGT AATA", " ")[[1]]),
  dataset = population,
  celltype = factor(unname(c(b_cells = "CD19+ B", cd56_nk = "CD56+ NK", cytotoxic_t = "CD8+ Cytotoxic T")[population])),
  subpop = factor(unname(c(b_cells = "B cell", cd56_nk = "NK cell", cytotoxic_t = "T cell")[population]))
)
rownames(samples) <- paste(samples$barcode, population, sep = "-")
values <- outer(1:12, 1:9, function(cell, gene) ((cell * 7 + gene * 5) %% 4) * (((cell + gene) %% 3) > 0))
dimnames(values) <- list(rownames(samples), genes$symbol)
counts <- as(as(as(values, "dMatrix"), "generalMatrix"), "CsparseMatrix")
fit <- structure(list(L = matrix(0.5, 10, 2), F = matrix(0.1, 9, 2)), class = c("multinom_topic_model_fit", "list"))
pbmc_facs <- list(
  counts = counts[1:10, ], counts_test = counts[11:12, ],
  samples = samples[1:10, ], samples_test = samples[11:12, ],
  genes = genes, fit = fit
)
save(pbmc_facs, file = "pbmc_facs_small.RData", version = 2)
