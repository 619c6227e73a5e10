"""Schema migrations, run by ``pps-collector migrate``."""
