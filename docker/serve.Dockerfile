# Serves one model package by an exported engine: no torch, no right to write anything but /tmp.
#
#   dogbreed export --format openvino --run runs/exp1 --out model
#   docker build -f docker/serve.Dockerfile -t serve:latest .
#   docker run --read-only --tmpfs /tmp -p 8080:8080 serve:latest

# Another base, such as a mirror's, may be given; Dependabot looks after the tag.
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS packages
COPY docker/serve.lock /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/dogbreed \
    && /opt/dogbreed/bin/pip install --require-hashes -r /locks/serve.lock
# What nobody needs on a processor: 100 of 510 MB.
RUN site=$(/opt/dogbreed/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
    && rm -rf "$site"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so \
        "$site"/openvino/libs/cache.json "$site"/openvino/include \
    && find "$site"/numpy -name tests -type d -prune -exec rm -rf {} + \
    && /opt/dogbreed/bin/pip uninstall --yes setuptools pip

FROM ${BASE} AS wheel
COPY docker/build.lock /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r /locks/build.lock
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dogbreed dogbreed
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheels

# A server that is told where its model is, such as in a bucket: --target server.
FROM ${BASE} AS server
RUN useradd --no-create-home --uid 1000 dogbreed
COPY --from=packages /opt/dogbreed /opt/dogbreed
# A layer of its own: a change of the code leaves the packages as they are.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    PYTHONDONTWRITEBYTECODE=1 python -m pip --python /opt/dogbreed/bin/python install \
    --no-cache-dir --no-deps --no-index /wheels/*.whl
ENV PATH=/opt/dogbreed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    PORT=8080
USER 1000
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/ready\")"]
ENTRYPOINT ["dogbreed"]
CMD ["serve", "--model", "/model", "--engine", "best"]

FROM server
# The package's folder, within the build's context.
ARG MODEL=model
COPY ${MODEL} /model
# Last, for they change with each commit.
ARG COMMIT=unknown
ARG VERSION=unknown
ARG DATA_VERSION=unknown
LABEL org.opencontainers.image.title="dogbreed serve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      dogbreed.data.version="${DATA_VERSION}"
