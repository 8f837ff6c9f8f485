# Trains, in the cloud and at home. The wheels of torch bring CUDA; the machine brings the driver.
#
#   docker build -f docker/train.Dockerfile -t train:latest .
#   docker run --gpus all -v "$PWD/runs:/work/runs" train:latest fit --config configs/quickstart.yaml

# Another base, such as a mirror's, may be given; Dependabot looks after the tag.
ARG BASE=docker.io/library/python:3.11-slim

# In layers of their own, so that a change of the code leaves these gigabytes as they are, here, in
# the registry, and on the machines that have them.
FROM ${BASE} AS packages
COPY docker/train.lock /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/dogbreed \
    && /opt/dogbreed/bin/pip install --require-hashes -r /locks/train.lock

# ImageNet's weights of this backbone, timm's name, if the image is to work without the Hub.
FROM packages AS weights
ARG WEIGHTS=""
ENV HF_HOME=/opt/hub
RUN mkdir -p /opt/hub && if [ -n "${WEIGHTS}" ]; then \
    /opt/dogbreed/bin/python -c \
    "import sys, timm; timm.create_model(sys.argv[1], pretrained=True)" "${WEIGHTS}"; fi

FROM ${BASE} AS wheel
COPY docker/build.lock /locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r /locks/build.lock
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dogbreed dogbreed
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheels

FROM ${BASE}
RUN useradd --create-home --uid 1000 dogbreed && mkdir /work && chown dogbreed /work
COPY --from=packages /opt/dogbreed /opt/dogbreed
COPY --from=weights --chown=dogbreed /opt/hub /opt/hub
WORKDIR /work
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/dogbreed/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
COPY configs configs
# Last, for they change with each commit.
ARG COMMIT=unknown
ARG VERSION=unknown
ARG DATA_VERSION=unknown
LABEL org.opencontainers.image.title="dogbreed train" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      dogbreed.data.version="${DATA_VERSION}"
# NVIDIA's container runtime reads the last two.
ENV PATH=/opt/dogbreed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/opt/hub \
    MPLCONFIGDIR=/tmp/matplotlib \
    WANDB_CACHE_DIR=/tmp/wandb \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
ENTRYPOINT ["dogbreed"]
CMD ["--help"]
