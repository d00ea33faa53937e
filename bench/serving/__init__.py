"""Servers side by side: raw inference, ours, and its peers, on one model, in one run."""
