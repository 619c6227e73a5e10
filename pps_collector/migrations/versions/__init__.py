"""One module a schema change; they say what the schema was then, so none imports today's tables."""
