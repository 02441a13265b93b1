"""Data: the row, label layers, raw-format readers and shards."""
