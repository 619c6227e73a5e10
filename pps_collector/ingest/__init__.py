"""How reports come in: bounded reading, judging, one writer, an answer only after the commit."""
