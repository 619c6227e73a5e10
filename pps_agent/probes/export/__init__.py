"""Probes as definitions for a site's own scheduler: Nagios, Icinga, NRPE, Sensu."""
