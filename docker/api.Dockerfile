# syntax=docker/dockerfile:1
# The API, the webhooks and the command line: no torch. docker build -f docker/api.Dockerfile -t darkroom-api:0.2.0 .
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# Another package index, where there is one of your own.
ARG PIP_INDEX_URL
# `tracing webhooks s3` where pictures lie in a bucket.
ARG EXTRAS="tracing webhooks"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
# The libraries first: they change less often than the code. Each file must have a hash that docker/lock.py wrote down.
COPY docker/locks locks
# hadolint ignore=SC2046,SC2086
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: \
      $(printf ' --requirement locks/%s.txt' darkroom ${EXTRAS}) \
 && pip install --no-deps --require-hashes --only-binary :all: --requirement locks/build.txt
COPY . .
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/venv/bin/python install --no-deps --no-index /wheels/*.whl \
 && pip --python /opt/venv/bin/python check

FROM ${PYTHON_IMAGE} AS api
LABEL org.opencontainers.image.title="darkroom-api" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 darkroom \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin darkroom \
 && install --directory --owner=10001 --group=10001 /blobs /app
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DARKROOM_HOST=0.0.0.0 DARKROOM_PORT=8000 DARKROOM_BLOB_DIR=/blobs
WORKDIR /app
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["python", "-m", "api"]
