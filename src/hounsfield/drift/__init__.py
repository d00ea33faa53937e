"""Drift of what the model sees: alibi-detect detectors on embeddings, DICOM fields and scores.

`fit`, `score` and `watch` run in the guard environment, because alibi-detect 0.11.4 needs numpy < 2;
`command` calls the first two from the main one, files in and files out, and `watch` follows the inference
log in a process of its own.
"""
