# syntax=docker/dockerfile:1
# A worker: the targets `cpu` and `cuda` differ in torch's build alone, and in xformers.
#   docker build -f docker/worker.Dockerfile --target cpu --build-arg TORCH_INDEX_URL=... -t darkroom-worker-cpu:0.2.0 .
#   docker build -f docker/worker.Dockerfile --target cuda -t darkroom-worker-cuda:0.2.0 .
# The index of PyTorch's CPU builds is the one that its install page names; without it the image holds a CUDA build.
# TORCH_SHA256 is the hash of the CPU build's file: docs/operations.md tells how to get it.
# CUDA's libraries come with torch; the node's driver comes with the container runtime.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
# `tracing worker search moderation s3` where pictures lie in a bucket. The processes of the search and of moderation run in this image too.
ARG EXTRAS="tracing worker search moderation"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
COPY docker/locks locks
# hadolint ignore=SC2046,SC2086
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: \
      $(printf ' --requirement locks/%s.txt' darkroom ${EXTRAS}) \
 && pip install --no-deps --require-hashes --only-binary :all: --requirement locks/build.txt
COPY . .
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/venv/bin/python install --no-deps --no-index /wheels/*.whl

FROM build AS build-cuda
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: \
      --requirement locks/torch-cuda.txt --requirement locks/gpu.txt \
 && pip --python /opt/venv/bin/python check

FROM build AS build-cpu
ARG TORCH_INDEX_URL
ARG TORCH_SHA256
# A CPU build has other hashes than the file of the same version in the lock, so it must come from its own index alone.
RUN if [ -n "${TORCH_INDEX_URL}" ]; then \
      sed -n "s/^torch==.*/&${TORCH_SHA256:+ --hash=sha256:${TORCH_SHA256}}/p" constraints.txt > torch.txt \
   && pip --python /opt/venv/bin/python install --no-deps --only-binary :all: --index-url "${TORCH_INDEX_URL}" --requirement torch.txt; \
    else \
      pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: --requirement locks/torch-cuda.txt; \
    fi \
 && pip --python /opt/venv/bin/python check

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
COPY models/emoji-clip models/emoji-clip
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9100/healthz', timeout=8)"]
CMD ["python", "-m", "worker"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
