"""The names of what stands in a tag base beside the lists, and in the cache of who publishes them; pure."""

from typing import Final

LOCK: Final = ".pps-tags.lock"
"""Held by whoever changes something."""
LEDGERS: Final = ".pps-tags"
"""Holds a directory for each VO."""
LIVES: Final = "life.json"
AUDIT: Final = "audit.jsonl"
INTENT: Final = "intent.json"
KEPT: Final = "tags"
"""In the cache: a directory for each account that publishes."""
