"""Benchmarks: each is a module of its own, run with `python -m bench.NAME`, that writes into build/bench."""
