"""The collector: takes the sites' reports, stores each record once, shows which version is where."""

__version__ = "0.1.0"
