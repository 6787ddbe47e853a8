"""What happens around training: stopping, saving, progress, curves."""
