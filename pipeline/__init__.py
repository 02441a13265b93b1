"""CFR-ICL: training, tuning and evaluation of click-based interactive segmentation on Ray."""
