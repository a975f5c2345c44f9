"""The kit for plugin authors: tiny stages, conformance checks, and a pytest plugin.

``af_core.testing.conformance`` holds the checks as plain functions, ``af_core.testing.tiny`` a
complete avatar that runs in milliseconds, ``af_core.testing.strategies`` hypothesis strategies; the
pytest plugin (loaded by pytest itself once af-core is installed) turns checks into tests.
"""
