"""Released checkpoints in, Hugging Face networks out: ``load_model("geneformer-mini")``.

base                the one face of all models
overview            their shapes and vocabularies by name, and tables of other people's
registry            a name or a folder in, a model out
geneformer(_files)  ranks: the model, and reading its files
scgpt(_...)         bins: the model, its network, layers, settings, and reading its files
"""

from __future__ import annotations

from scfm.models import overview
from scfm.models.base import Model, ModelError
from scfm.models.registry import has_warm_start, list_models, load_model

__all__ = ["Model", "ModelError", "has_warm_start", "list_models", "load_model", "overview"]
