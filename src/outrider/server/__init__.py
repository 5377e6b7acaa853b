"""The server: OpenAI-compatible endpoints over one engine. Needs the extra `server`."""
