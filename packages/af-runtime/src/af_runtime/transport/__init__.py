"""How frames of bytes travel between clients and a worker; only `transport.zeromq` knows zmq."""
