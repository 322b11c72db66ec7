"""Is it still the same? Digests of a task's code, of a declared type, and of a value's content."""
