"""Clicks: encoding, first clicks of a training sample, simulated next clicks."""
