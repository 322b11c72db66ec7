"""What tests of flows and of logs are built from; imports nothing by itself, for pytest is not needed to run."""
