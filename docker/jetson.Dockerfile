# The runtime on a Jetson Orin with JetPack 6.1 or 6.2. Not built here: no machine of this project had
# docker or was a Jetson. docs/jetson.md has the way without a container.
#
#   docker build -f docker/jetson.Dockerfile -t ifmmin:jetson .        # on the Jetson
#   docker run --rm --runtime nvidia -v "$PWD/bundle:/bundle:ro" ifmmin:jetson ifmmin-doctor -b /bundle

FROM python:3.12.8-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE MANIFEST.in ./
COPY licenses licenses
COPY train train
COPY export export
COPY runtime runtime
COPY benchmarks benchmarks
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# CUDA 12.6 and TensorRT 10.3 for Python 3.10 of Ubuntu 22.04.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-libnvinfer \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --groups video ifmmin
# TensorRT's Python module is the system's, so the environment has to see the system's packages.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m venv --system-site-packages /opt/ifmmin \
    && /opt/ifmmin/bin/pip install --no-cache-dir "$(echo /wheels/*.whl)[cpu]" \
        "cuda-python>=12.6,<13"
ENV PATH=/opt/ifmmin/bin:$PATH
USER 10001
WORKDIR /home/ifmmin
CMD ["ifmmin-doctor"]
