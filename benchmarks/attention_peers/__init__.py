"""Other packages beside this one: thin adapters for the conformance kit, pairs that compute the same, measurements."""
