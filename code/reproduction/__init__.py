"""What reproduce.py is made of: experiments as data, runs, tables, figures, the page."""
