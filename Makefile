# Two commands do everything, set-up included: `make run` and `make test`.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

QUICKSTART = $(if $(HOME_DIR),--home '$(HOME_DIR)') $(if $(REDIS_PORT),--redis-port '$(REDIS_PORT)') \
	$(if $(API_PORT),--api-port '$(API_PORT)') $(if $(UI_PORT),--ui-port '$(UI_PORT)') \
	$(if $(SERVER),--server '$(SERVER)')

# As many at a time as there are cores; a process that is done early takes tests from the others.
PYTEST = .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

C = $(wildcard module/*/*.[ch] tests/*/*.[ch])

BENCH = $(if $(ONLY),--only '$(ONLY)') $(if $(SCALE),--scale '$(SCALE)') $(if $(SERVER),--server '$(SERVER)')

.PHONY: help setup setup-dev setup-all build run dist deb release install lock lint test bench bench-check servers bases test-servers test-docker test-all test-sanitize fuzz docs clean

help:
	@echo 'make run           start a server that knows you by your certificate, and say what to try'
	@echo '                   (HOME_DIR=./.certauth REDIS_PORT=6380 API_PORT=9443 UI_PORT=8443 SERVER=redis-server)'
	@echo 'make test          lint, and test on the installed server and those already fetched'
	@echo 'make build         module/certauth.so and control/_core.abi3.so'
	@echo 'make dist          wheel and sdist of the control plane, in build/dist'
	@echo 'make deb           Debian packages of the module and the control plane, in build/dist'
	@echo 'make release       build and check all that a release would publish, and publish nothing'
	@echo 'make install       both where packages put them, below DESTDIR'
	@echo 'make lock          constraints.txt again: the newest releases that fit, with their hashes'
	@echo 'make bases         the base images of the Dockerfile by the digests that their tags have now'
	@echo 'make lint          ruff, clang-format and mypy'
	@echo 'make test-servers  fetch Redis 8 and Valkey, and run the module'\''s tests on each'
	@echo 'make test-docker   build both images and test them, on an engine that it starts if need be'
	@echo 'make test-all      everything but that, slow tests included'
	@echo 'make test-sanitize as test, with ASan and UBSan in the C, in Python and in the servers'
	@echo 'make bench         how fast it is, beside what stock servers do: build/bench/report.md'
	@echo 'make bench-check   whether a ratio of it is worse than in docs/bench/report.md'
	@echo '                   (ONLY=1,2 questions, SCALE=0.1 a look, SERVER=8.6)'
	@echo 'make fuzz          hostile inputs for the core, SECONDS=60 of each kind'
	@echo 'make docs          the pages as a site, in build/site/html; fails on a broken link'
	@echo 'make clean         remove what was built, .venv included (.certauth stays)'
	@echo 'PYTHON=python3.12  another interpreter'

setup:
	@PYTHON='$(PYTHON)' .ci/setup

setup-dev:
	@PYTHON='$(PYTHON)' .ci/setup dev

setup-all:
	@PYTHON='$(PYTHON)' .ci/setup all

build: setup

run: setup
	@exec .venv/bin/redis-certauth quickstart $(QUICKSTART)

# What is released has the time of its commit, so that two builds of it are the same bytes. Without
# git it is an archive that git has made, whose files have that time.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)

dist:
	@PYTHON='$(PYTHON)' .ci/setup dist
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) .venv/bin/pyproject-build --outdir build/dist

deb:
	@PYTHON='$(PYTHON)' .ci/setup deb
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) .ci/deb build/dist
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) .ci/deb-control build/dist

release:
	@.ci/release

# Where packages would put it, below DESTDIR. docs/installing.md says what is to be done then.
install: setup
	install -D -m 0755 module/certauth.so '$(DESTDIR)/usr/lib/redis/modules/certauth.so'
	install -d '$(DESTDIR)/usr/lib/valkey/modules'
	ln -sf ../../redis/modules/certauth.so '$(DESTDIR)/usr/lib/valkey/modules/certauth.so'
	.ci/tree '$(DESTDIR)/'

LOCK = .venv/bin/pip-compile --quiet --allow-unsafe --upgrade --generate-hashes --strip-extras \
	--no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

# async-timeout: redis needs it before Python 3.11.3.
lock: setup-dev
	.venv/bin/python -m pip install --quiet pip-tools
	@echo async-timeout >build/early.in
	$(LOCK) --extra postgresql --output-file build/lock.txt pyproject.toml build/early.in
	@{ head -n 1 constraints.txt; cat build/lock.txt; } >build/lock.new
	mv build/lock.new constraints.txt

bases:
	@.ci/bases

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(C)
	.venv/bin/mypy

test: lint
	TMPDIR=$$(.ci/scratch) $(PYTEST) -m 'not slow'

servers: setup-dev
	.venv/bin/python -m tests.kit.servers

test-servers: servers
	$(PYTEST) -m servers

test-docker:
	@PYTHON='$(PYTHON)' .ci/setup docker
	.venv/bin/python -m tests.kit.engine

test-all: setup-all lint servers
	.venv/bin/python -m tests.kit.suites
	$(PYTEST) -m 'not docker'

bench: servers
	@PYTHON='$(PYTHON)' .ci/setup bench
	.venv/bin/python -m tests.bench $(BENCH)

bench-check:
	.venv/bin/python -m tests.bench.check

test-sanitize: setup-dev
	.venv/bin/python build.py --sanitize
	# The installed server alone: those of the matrix bring their own libc, which ASan is not for.
	CERTAUTH_BUILD=build/sanitize CERTAUTH_CACHE=build/no-servers ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(cc -print-file-name=libasan.so)" .venv/bin/python -m pytest -m 'not slow'

fuzz: setup-dev
	.venv/bin/python -m tests.fuzz $(if $(SECONDS),--seconds '$(SECONDS)')

docs:
	@PYTHON='$(PYTHON)' .ci/setup docs
	.venv/bin/python .ci/site
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --config-file .ci/mkdocs.yml --strict --quiet

clean:
	rm -rf build .venv module/*.so control/*.so *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
