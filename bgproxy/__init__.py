"""bgproxy: a self-hosted HTTP reverse proxy with a built-in blue-green switch."""

__version__ = "0.1.0"
