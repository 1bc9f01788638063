"""The suites of `telic benchmark`, one file each."""
