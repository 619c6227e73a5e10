"""Making a build from a directory tree or from Debian packages."""
