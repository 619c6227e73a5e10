"""The release managers' tools: build, sign and serve previews. The only code that signs releases."""

__version__ = "0.1.0"
