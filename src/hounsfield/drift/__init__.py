"""Drift of what the model sees: alibi-detect detectors on the model's embeddings.

`fit` and `score` run in the guard environment, because alibi-detect 0.11.4 needs numpy < 2; `command` calls
them from the main one, files in and files out.
"""
