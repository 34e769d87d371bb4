"""What the control plane does for the API, the page and the CLI alike: logins, permissions, the CA
of clients, revocation lists, previews, metrics."""
