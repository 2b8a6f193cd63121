# docker build -t ssmtl .                                                     for CPUs
# docker build -t ssmtl:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu128 .   for NVIDIA GPUs
# docker run --rm -v "$PWD:/work" ssmtl run --data scans/ ...                 (--gpus all; --user "$(id -u):$(id -g)")
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH"

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir '.[formats,metrics,balancing]' && rm -rf /src/*

ENV XDG_CACHE_HOME=/work/.cache
WORKDIR /work
ENTRYPOINT ["ssmtl"]
CMD ["--help"]
