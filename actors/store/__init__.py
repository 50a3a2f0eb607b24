"""Writing so that it lasts: files, group commits, a reserve for full disks."""
