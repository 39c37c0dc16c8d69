"""Lets a TorchVision built for CUDA be imported beside a CPU build of PyTorch."""

import importlib.util

_declared: list[object] = []
"""Kept alive: operators vanish with the library that declared them."""


def declare() -> None:
    """Declare the operators that such a TorchVision could not load.

    Package registries hold one TorchVision, built for CUDA; beside a CPU build of PyTorch its compiled library does
    not load, and importing it then fails on the first operator it wants to describe. Nothing here calls them:
    transformers resizes images with TorchVision's Python code.
    """
    import torch

    if _declared or torch.version.cuda is not None or importlib.util.find_spec("torchvision") is None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            # A TorchVision that fits has declared it.
            return
    _declared.append(library)
