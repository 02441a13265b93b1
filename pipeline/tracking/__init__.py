"""Tracking: MLflow runs that never stop or slow the work they describe."""
