"""The demo's page and its gateway: a browser on one side, a stream worker on the other."""
