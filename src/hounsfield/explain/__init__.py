"""Explanation: which pixels moved the answer for a few cases of the test split."""
