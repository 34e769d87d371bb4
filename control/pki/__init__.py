"""Certificates and revocation lists: making, reading and judging them."""
