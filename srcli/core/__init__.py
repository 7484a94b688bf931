"""Tensors in, tensors out: network bodies and generators, VGG16, losses, metrics, degradation, devices.

Knows no files and no terminal. May import from config and errors.
"""
