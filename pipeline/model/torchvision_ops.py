"""Make torchvision importable beside a CPU build of torch; timm imports torchvision.

torchvision is published as a CUDA build; beside a CPU torch its C++ operators do not load, and its Python side then
fails to register fakes for two of them ("operator torchvision::nms does not exist"). Declaring the two is enough:
neither timm's ViT nor we call them. With matching builds this module does nothing. Import it before timm.
"""

from __future__ import annotations

import torch

_library: torch.library.Library | None = None  # operators live as long as the library object


if torch.version.cuda is None and torch.version.hip is None and not hasattr(torch.ops.torchvision, "nms"):
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
