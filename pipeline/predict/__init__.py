"""Masks from clicks that somebody gives: in Python (`predictor`)."""
