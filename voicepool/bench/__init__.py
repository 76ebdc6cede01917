"""`voicepool bench`: what a host's callers wait for, measured on that host."""
