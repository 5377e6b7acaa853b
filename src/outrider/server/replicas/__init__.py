"""One front for several engines: routing, retries, and deployments on Ray Serve."""
