# One image for both services: `python -m node` and `python -m coordinator`; and for `parallax ...`.
# docker build -t parallax .
# Any base with Python 3.11 or newer and glibc will do; the architectures are those for which the lock file has wheels:
# linux/amd64 and linux/arm64.
ARG BASE=python:3.13-slim-trixie

# hadolint ignore=DL3006 -- the tag stands above
FROM ${BASE} AS dependencies
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/parallax
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY .ci/image-lock .ci/image-lock
# What the services need, and of that only what the lock file has the hash of.
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], 'setuptools', sep='\n')" > wanted.txt \
    && sed -e '/--hash=/d' -e 's/ \\$//' requirements.lock > pins.txt \
    && /opt/parallax/bin/pip install --quiet --dry-run --ignore-installed --only-binary :all: --report report.json \
        --constraint pins.txt --requirement wanted.txt \
    && python3 .ci/image-lock report.json > image.lock \
    && /opt/parallax/bin/pip install --quiet --only-binary :all: --require-hashes --requirement image.lock

FROM dependencies AS builder
COPY parallax parallax
COPY coordinator coordinator
COPY node node
RUN /opt/parallax/bin/pip install --quiet --no-deps --no-build-isolation --no-index . \
    && /opt/parallax/bin/pip uninstall --quiet --yes setuptools pip \
    && find /opt/parallax -type d \( -name test -o -name tests -o -name testdata \) -prune -exec rm -rf {} + \
    && find /opt/parallax -path '*/pyarrow/include' -prune -exec rm -rf {} + \
    && /opt/parallax/bin/python3 -m compileall -q /opt/parallax/lib

# `docker build --target load -t parallax-load .`: what `loadTest` of the chart runs.
FROM dependencies AS load-builder
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['load'][1:], sep='\n')" >> wanted.txt \
    && /opt/parallax/bin/pip install --quiet --dry-run --ignore-installed --only-binary :all: --report report.json \
        --constraint pins.txt --requirement wanted.txt \
    && python3 .ci/image-lock report.json > image.lock \
    && /opt/parallax/bin/pip install --quiet --only-binary :all: --require-hashes --requirement image.lock
COPY parallax parallax
RUN /opt/parallax/bin/pip install --quiet --no-deps --no-build-isolation --no-index . \
    && /opt/parallax/bin/pip uninstall --quiet --yes setuptools pip \
    && find /opt/parallax -type d \( -name test -o -name tests -o -name testdata \) -prune -exec rm -rf {} + \
    && /opt/parallax/bin/python3 -m compileall -q /opt/parallax/lib

# hadolint ignore=DL3006
FROM ${BASE} AS load
LABEL org.opencontainers.image.title="parallax-load" \
      org.opencontainers.image.description="Load tests of Parallax" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=load-builder /opt/parallax /opt/parallax
WORKDIR /opt/loadtests
COPY loadtests loadtests
ENV PATH=/opt/parallax/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 5557
STOPSIGNAL SIGINT
CMD ["python", "-m", "loadtests.remote", "--help"]

# hadolint ignore=DL3006
FROM ${BASE}
LABEL org.opencontainers.image.title="parallax" \
      org.opencontainers.image.description="Perspective tables for many viewers from many servers" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/parallax /opt/parallax
# Nothing is written: the root file system may be read-only.
ENV PATH=/opt/parallax/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8080 8081 8091
STOPSIGNAL SIGTERM
CMD ["python", "-m", "node"]
