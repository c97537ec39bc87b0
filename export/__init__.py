"""Writers, one file a container: temp file, fsync, rename, then reopened and compared."""
