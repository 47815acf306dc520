# syntax=docker/dockerfile:1
# A worker: the targets `cpu` and `cuda` differ in torch's build alone, and in xformers.
#   docker build -f docker/worker.Dockerfile --target cpu --build-arg PIP_EXTRA_INDEX_URL=... -t darkroom-worker-cpu:0.1.0 .
#   docker build -f docker/worker.Dockerfile --target cuda -t darkroom-worker-cuda:0.1.0 .
# The index of PyTorch's CPU builds is the one that its install page names; without it the image holds a CUDA build.
# CUDA's libraries come with torch; the node's driver comes with the container runtime.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# `tracing worker s3` where pictures lie in a bucket.
ARG EXTRAS="tracing worker"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt docker/requirements.py ./
# hadolint ignore=SC2086
RUN python requirements.py ${EXTRAS} > requirements.txt \
 && pip --python /opt/venv/bin/python install --constraint constraints.txt --requirement requirements.txt
COPY . .
RUN pip --python /opt/venv/bin/python install --no-deps .

FROM build AS build-cuda
RUN python requirements.py gpu > requirements-gpu.txt \
 && pip --python /opt/venv/bin/python install --constraint constraints.txt --requirement requirements-gpu.txt

FROM build AS bill
RUN pip install cyclonedx-bom==7.5.0 \
 && cyclonedx-py environment /opt/venv --pyproject pyproject.toml --output-file /sbom-worker.json
FROM scratch AS sbom
COPY --from=bill /sbom-worker.json /

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="darkroom-worker" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 darkroom \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin darkroom \
 && install --directory --owner=10001 --group=10001 /blobs /app /models
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/hub DARKROOM_BLOB_DIR=/blobs DARKROOM_METRICS_PORT=9100
WORKDIR /app
# The embedded models, a few megabytes each.
COPY models/emoji-turbo models/emoji-turbo
COPY models/emoji-base models/emoji-base
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9100/healthz', timeout=8)"]
CMD ["python", "-m", "worker"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=build /opt/venv /opt/venv
