"""What people see: which version is where, and how it does."""
