"""The largest component of a label map, as post-processing takes it."""
from dataloaders.components import largest_component, largest_components

__all__ = ["largest_component", "largest_components"]
