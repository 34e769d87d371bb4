# Two images: `docker build --target server .` is a Redis or Valkey server with the module,
# `docker build --target control .` the control plane. docs/images.md says how they are run.

# Any image of a server with TLS and a shared OpenSSL 3, on a Debian not older than BUILD_IMAGE's.
# These tags follow the fixes of their versions; `make bases` writes the digests behind them.
ARG SERVER_IMAGE=valkey/valkey:8.1-trixie
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# Where it is compiled: PYTHON_IMAGE, or an image made from it that knows your mirrors of apt and pip.
# Nothing of this one is in a result but what is copied below.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        binutils gcc libc6-dev libssl-dev
WORKDIR /src
COPY constraints.txt .
# The environment lies where it will be: its scripts name its path.
RUN python3 -m venv /opt/certauth \
    && python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir 'setuptools>=77' wheel 'cffi>=1.17,<3'
COPY . .
RUN /tools/bin/python build.py \
    && strip --strip-unneeded module/certauth.so \
    && /opt/certauth/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes \
        --requirement constraints.txt \
    && /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/certauth/bin/pip install --no-cache-dir --no-compile --no-deps /wheel/*.whl \
    && /opt/certauth/bin/pip uninstall -qy pip setuptools \
    && packages=$(echo /opt/certauth/lib/python3*/site-packages) \
    && python3 packaging/sbom "$packages" >/sbom.spdx.json \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash "$packages" \
    && install -d -o 999 -g 999 -m 0700 /empty /policy /policy/journal /policy/journal/ca
# What differs from this comes as options, `docker run IMAGE --maxmemory 1gb`, or in a file of its own.
RUN printf '%s\n' > /redis.conf \
    'port 0' \
    'tls-port 6379' \
    'tls-cert-file /tls/server.crt' \
    'tls-key-file /tls/server.key' \
    'tls-ca-cert-dir /var/lib/certauth/journal/ca' \
    'loadmodule /usr/local/lib/certauth.so journal /var/lib/certauth/journal bootstrap /tls/bootstrap' \
    'unixsocket /run/certauth/redis.sock' \
    'unixsocketperm 700' \
    'user default off resetpass'

# The module alone: a volume of the kind `image` for Kubernetes, or a source of COPY --from.
FROM scratch AS module
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="redis-certauth module" \
    org.opencontainers.image.description="Certificate-based authentication for Redis and Valkey" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /src/module/certauth.so /certauth.so
COPY --from=build /src/LICENSE /LICENSE

FROM ${SERVER_IMAGE} AS server
ARG VERSION=0.2.0
COPY --from=build /src/module/certauth.so /usr/local/lib/certauth.so
COPY --from=build /redis.conf /etc/certauth/redis.conf
COPY --from=build /src/module/entrypoint /usr/local/bin/certauth-server
COPY --from=build /src/module/health /usr/local/bin/certauth-health
COPY --from=build /src/LICENSE /usr/share/licenses/redis-certauth/LICENSE
# A base without a server, or on which the module does not run, is not a base.
RUN certauth-server --version && libraries=$(ldd /usr/local/lib/certauth.so) \
    && ! echo "$libraries" | grep 'not found'
LABEL org.opencontainers.image.title="redis-certauth server" \
    org.opencontainers.image.description="Redis or Valkey with certificate-based authentication" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.licenses="MIT"
# The policy, and below it the CAs of clients. The unix socket, which the health check asks.
EXPOSE 6379
COPY --from=build --chown=999:999 /policy /var/lib/certauth
COPY --from=build --chown=999:999 /empty /run/certauth
VOLUME /var/lib/certauth
USER 999:999
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["certauth-health"]
ENTRYPOINT ["certauth-server"]
CMD []

FROM ${PYTHON_IMAGE} AS control
ARG VERSION=0.2.0
# What nobody may write later: the bytecode of what each command and each check imports.
RUN python3 -m compileall -qq --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|site-packages|dist-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/certauth/bin:$PATH PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/certauth /opt/certauth
COPY --from=build /src/packaging/control-entrypoint /usr/local/bin/certauth-control
COPY --from=build /src/packaging/control-health /usr/local/bin/certauth-health
COPY --from=build /sbom.spdx.json /usr/share/doc/redis-certauth/sbom.spdx.json
COPY --from=build --chown=999:999 /empty /var/lib/certauth
COPY --from=build /src/LICENSE /usr/share/licenses/redis-certauth/LICENSE
LABEL org.opencontainers.image.title="redis-certauth control plane" \
    org.opencontainers.image.description="Certificate-based authentication for Redis and Valkey" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.licenses="MIT"
VOLUME /var/lib/certauth
USER 999:999
EXPOSE 9443 8443
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["certauth-health"]
ENTRYPOINT ["certauth-control"]
CMD ["serve", "--home", "/var/lib/certauth"]
