"""Released checkpoints in, Hugging Face networks out: ``load_model("geneformer-mini")``."""

from __future__ import annotations

from scfm.models.registry import ModelError, has_warm_start, list_models, load_model

__all__ = ["ModelError", "has_warm_start", "list_models", "load_model"]
