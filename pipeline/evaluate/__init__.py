"""CFR inference, metrics and the evaluation job."""
