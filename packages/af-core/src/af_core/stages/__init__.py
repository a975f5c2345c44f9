"""Interfaces of a streaming avatar's parts, and the values they exchange. One file, one idea."""
