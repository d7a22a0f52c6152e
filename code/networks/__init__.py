"""Backbones (V-Net in 3D, U-Net in 2D), each an encoder and a decoder, and the pair of two views."""
