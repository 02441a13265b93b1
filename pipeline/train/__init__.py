"""Losses, click iteration, optimiser and the training loop."""
