"""The control plane of redis-certauth: REST API, command line, store and sync."""
