"""Training: the networks, the Lightning module, the entry point of `torchrun`, and tuning."""
