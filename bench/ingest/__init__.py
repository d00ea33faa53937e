"""Ingest: mutated files, memory, speed."""
