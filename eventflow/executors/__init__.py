"""Where task bodies run, apart from the event loop itself."""
