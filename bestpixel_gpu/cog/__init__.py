"""The COG reader: pure functions from bytes to levels, georeference and plain tile bytes."""
