"""Recordings of sessions (``.afrec``): written beside a session, replayed bit for bit."""
