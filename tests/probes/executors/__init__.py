"""Executors: what they promise, and each of them with the real batch system."""
