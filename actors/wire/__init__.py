"""What crosses between processes: names, multipart bodies, zips, frames, event lines, and serving an app.

Only forms live here, no rule of the system.
"""
