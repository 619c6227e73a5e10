"""The site's agent: installs previews beside production, probes them, announces them, reports."""

__version__ = "0.1.0"
