"""What reproduce.py and benchmark.py are made of."""
