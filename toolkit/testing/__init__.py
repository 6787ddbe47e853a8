"""The conformance kit: what holds for every attention mechanism, checked on any that is registered.

toolkit conform gat                        every check on one mechanism, from the command line
pytest --toolkit-plugin my_plugin          the same as tests, for all mechanisms of a plugin
from toolkit.testing.kit import conform    the same from Python: conform(subject("gat"))
"""
