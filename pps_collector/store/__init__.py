"""The database: tables, connections, schema migrations, and the one way records get in."""
