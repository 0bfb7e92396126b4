"""Bytes from archives: byte ranges of remote and local files, verified, limited, cached."""
