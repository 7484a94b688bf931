"""Comparing images: losses and metrics, tables, JSON, heat maps and HTML pages.

May import from inference, models, core, io, config and errors.
"""
