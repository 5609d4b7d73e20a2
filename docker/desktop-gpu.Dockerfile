# The runtime beside a desktop or server GPU with CUDA 12. Not built here: no machine of this project
# had docker or a GPU.
#
#   docker build -f docker/desktop-gpu.Dockerfile -t ifmmin:desktop-gpu .
#   docker run --rm --gpus all -v "$PWD/bundle:/bundle:ro" ifmmin:desktop-gpu ifmmin-doctor -b /bundle

FROM python:3.12.8-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE MANIFEST.in ./
COPY licenses licenses
COPY train train
COPY export export
COPY runtime runtime
COPY benchmarks benchmarks
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 ifmmin
# onnxruntime-gpu is built for CUDA 13 from 1.27 on, and its TensorRT provider loads TensorRT 10.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m venv /opt/ifmmin \
    && /opt/ifmmin/bin/pip install --no-cache-dir "$(echo /wheels/*.whl)[gpu]" \
        "onnxruntime-gpu>=1.20,<1.27" "tensorrt-cu12==10.16.1.11" "cuda-python>=12.6,<13"
ENV PATH=/opt/ifmmin/bin:$PATH \
    LD_LIBRARY_PATH=/opt/ifmmin/lib/python3.12/site-packages/tensorrt_libs:$LD_LIBRARY_PATH
USER 10001
WORKDIR /home/ifmmin
CMD ["ifmmin-doctor"]
