"""Training-time augmentation: geometry, colour and SUEM copy-paste."""
