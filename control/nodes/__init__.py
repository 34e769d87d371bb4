"""The servers: what is asked of them and sent to them, and how they are kept in step."""
