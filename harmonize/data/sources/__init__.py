"""Readers of raw corpora, one small file each: a benchmark's own public layout in, records with roles out."""
