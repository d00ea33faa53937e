"""Evaluation: what a model is worth on the test split, and where a person must decide."""
