"""Batches on a Ray cluster, with images on any storage that fsspec opens.

Imported only with `--cluster`.
"""
