"""A span of OpenTelemetry for each request; off unless it is asked for."""
