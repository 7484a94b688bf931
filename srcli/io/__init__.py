"""Image files: formats, color, metadata and orientation; tiles of large images; and atomic writes.

Only this package knows file formats, bit depths, color profiles and metadata. Reading and writing is done by libvips through
pyvips: it preserves 16 bits, profiles and metadata in all formats, works row by row, and its wheel includes every codec.

May import from errors.
"""
