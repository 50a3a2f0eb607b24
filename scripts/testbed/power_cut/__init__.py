"""What a power cut leaves of a real server's disk, and whether everything that was told is still there."""
