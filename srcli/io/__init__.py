"""Image files: formats, color, metadata, orientation, and atomic writes."""
