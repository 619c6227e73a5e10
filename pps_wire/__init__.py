"""The contract between agent, collector and publisher: pure values, no I/O, no clock, no log."""
