"""The stages put together; prune.py is to be read top to bottom."""
