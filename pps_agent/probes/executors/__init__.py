"""Ways to where jobs run: node probes travel as one file through the site's own batch system."""
