# The service's image. See docs/deploy.md.
#
#   scripts/smoke-image                                          builds it, and tests it on a container engine
#   docker build --build-arg BASE_IMAGE=python:3.13-slim@sha256:... .    pins the base by its digest

ARG BASE_IMAGE=python:3.13-slim

# --- builder: the packages and the code, compiled --------------------------------------------------
FROM ${BASE_IMAGE} AS builder

WORKDIR /build
RUN python -m venv --without-pip /opt/venv

# Dependencies before code: this layer lasts until requirements.txt changes.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.txt,target=requirements.txt \
    python -m pip --python /opt/venv/bin/python install \
        --require-hashes --no-deps --only-binary :all: --no-compile --disable-pip-version-check -r requirements.txt

# Bytecode is compiled here, since it cannot be written later. It is not checked against its source, and contains
# no time stamp: the same input gives the same bytes.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

COPY . /app
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

# --- runtime: the packages and the code, without build tools ---------------------------------------------------
FROM ${BASE_IMAGE} AS runtime

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
WORKDIR /app

# A number, so that Kubernetes can verify that it is not root. It owns no file of the image.
USER 65532:65532
EXPOSE 8000

# gunicorn is process 1, started without a shell, and drains on SIGTERM.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-S", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + (os.environ.get('OPS_PORT') or os.environ.get('PORT') or '8000') + '/health/live', timeout=4)"]
CMD ["python", "-m", "app.server"]

# Last, since they change with every commit; labels add no layer.
ARG VERSION=unknown
ARG COMMIT=unknown
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="items-service" \
      org.opencontainers.image.description="FastAPI on PostgreSQL, behind gunicorn and uvicorn workers" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
