"""The HTTPS front: TLS, HTTP/1.1, their limits, and the WSGI application behind them."""
