"""Jobs' files on disk: uploads, results, and taking them away."""
