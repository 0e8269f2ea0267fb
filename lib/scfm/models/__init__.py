"""Released checkpoints in, Hugging Face networks out: ``load_model("geneformer-mini")``."""

from __future__ import annotations

from scfm.models.registry import ModelError, list_models, load_model

__all__ = ["ModelError", "list_models", "load_model"]
