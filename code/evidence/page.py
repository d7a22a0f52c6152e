def write():
    """One page to look at everything."""
    pass
