"""Backbones (V-Net in 3D, U-Net in 2D), the pair of two views, and the networks of the compared methods."""
