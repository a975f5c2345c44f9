"""What travels between a client and the stream worker; docs/protocol.md is the same in words."""
