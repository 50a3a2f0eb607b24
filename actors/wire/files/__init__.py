"""Files on the wire: safe names, listings, zips in and out."""
