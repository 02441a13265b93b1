"""The network, its parts and its checkpoints."""
