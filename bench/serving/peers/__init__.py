"""The servers that ours is measured beside; each runs in its own environment and imports nothing of ours."""
