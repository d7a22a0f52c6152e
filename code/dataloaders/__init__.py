"""From HDF5 scans to two-stream batches; the augmentation, the box masks and the phantoms."""
