"""Upscaling images with a trained model: backends that run networks, tiling, batches of files.

May import from models, core, io, config and errors. Imports torch only when a torch backend is needed.
"""
