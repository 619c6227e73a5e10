"""The environment of a preview: inherited from the site's own settings, never disturbing them.

``capture`` looks at what the site's profile files set, ``compose`` (pure) lays the release over it,
``render`` (pure) writes it for shells and modules, ``save`` keeps it beside the tree.
"""
