"""A frozen base in 4 or 8 bits, for LoRA on top of it: QLoRA (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes.

Geneformer's own fine-tuning of its largest model does the same: NF4, computed in bfloat16.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from scfm.models.base import Model


def quantized(model: Model, bits: str, allow_cpu: bool = False) -> None:
    """Replace the linear layers of every transformer layer, in place, by bitsandbytes' of ``"4bit"`` (NF4) or ``"8bit"``.

    Raises
    ------
    ValueError
        No GPU, or no bitsandbytes.
    """
    import torch

    network: Any = model.network
    device = network.device
    if device.type != "cuda" and not allow_cpu:
        raise ValueError(
            f"quantize={bits!r} needs an NVIDIA GPU: the base is stored in {bits[0]} bits and unpacked by GPU kernels, and this "
            f"model is on {device.type}. On a CPU leave quantize out: LoRA alone keeps the base's {_megabytes(network):,.0f} MB "
            "as they are. With a GPU: scfm.load_model(name, device='cuda')."
        )
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise ValueError(
            f"quantize={bits!r} needs the package bitsandbytes, which is not installed: pip install bitsandbytes."
        ) from error
    for layer in model.layers():
        for name, linear in [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]:
            weight = linear.weight.data.cpu().clone()  # on its way from the CPU to the device it is quantized
            shape: Any = (linear.in_features, linear.out_features, linear.bias is not None)
            made: Any
            if bits == "4bit":
                made = bnb.nn.Linear4bit(*shape, compute_dtype=torch.bfloat16, quant_type="nf4")
                made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            else:
                made = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
                made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            if linear.bias is not None:
                made.bias = nn.Parameter(linear.bias.data.clone(), requires_grad=False)
            parent = layer.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], made.to(device))
    setattr(network, f"is_loaded_in_{bits}", True)  # peft asks for it


def _megabytes(network: Any) -> float:
    return sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6
