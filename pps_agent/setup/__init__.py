"""What root does once at a site, so that nothing else needs root: ``pps-agent setup``.

Each step says what is to be (pure) and is carried out by the same hands: ``rights.py`` decides, ``establish.py`` does.
"""
