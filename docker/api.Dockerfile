# syntax=docker/dockerfile:1
# The API, the webhooks and the command line: no torch. docker build -f docker/api.Dockerfile -t darkroom-api:0.1.0 .
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# Another package index, where there is one of your own.
ARG PIP_INDEX_URL
# `tracing webhooks s3` where pictures lie in a bucket.
ARG EXTRAS="tracing webhooks"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
# The libraries first: they change less often than the code.
COPY pyproject.toml constraints.txt docker/requirements.py ./
# hadolint ignore=SC2086
RUN python requirements.py ${EXTRAS} > requirements.txt \
 && pip --python /opt/venv/bin/python install --constraint constraints.txt --requirement requirements.txt
COPY . .
RUN pip --python /opt/venv/bin/python install --no-deps .

# docker build --target sbom --output . : what is in the image, as CycloneDX.
FROM build AS bill
RUN pip install cyclonedx-bom==7.5.0 \
 && cyclonedx-py environment /opt/venv --pyproject pyproject.toml --output-file /sbom-api.json
FROM scratch AS sbom
COPY --from=bill /sbom-api.json /

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
