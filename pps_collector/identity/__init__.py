"""Who is who: the collector's own certificate authority, enrolment, and reading a peer's certificate."""
