"""Data: the row, label layers, raw-format readers, shards and the training stream."""
