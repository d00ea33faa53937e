"""What the inference log costs, beside its peers: `python -m bench.log`."""
