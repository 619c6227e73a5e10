"""What is claimed of speed and size, measured beside a peer in the same run. ``./run bench [NAME…]``."""
