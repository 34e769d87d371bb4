"""The command `redis-certauth`."""
