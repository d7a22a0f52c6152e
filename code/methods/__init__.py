"""The compared methods, one file each, and what several of them share."""
