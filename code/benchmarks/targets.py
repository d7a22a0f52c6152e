"""The rows of benchmark.py, and what is asked of them."""

# row -> at least so many times faster, at most this share of the plain recipe's memory
TARGETS = {"metrics": (10, None), "surfaces": (3, None), "sampling": (20, None), "components": (5, None),
           "ACDC-volume": (3, None), "ACDC-step": (1.6, 0.7), "LA-step": (2.2, 0.6), "BraTS-step": (2.2, None),
           "LA-volume": (1.7, None)}
REPORTS = ("validation", "limit", "growth", "methods", "windows", "memory", "monai", "start", "demo")
WITH_ANOTHER = ("start", "demo")        # with another revision


def verdict(met, quick):
    """Of a target; none with small shapes."""
    return "" if quick else "met" if met else "missed"
