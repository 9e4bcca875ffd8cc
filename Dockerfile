# The server's images: --target cpu, gpu, or worker (RunPod). How to build, run and check them: docs/deploy.md.
#
# An official Python of the release that the tests run on. For a build that is the same to the last byte, give the tag's
# digest too: --build-arg BASE=docker.io/library/python:3.11.14-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm


# -- What builds and installs; nothing of it is in an image. pip reads a company's own index from the secret `pip`.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY deploy/locks/build.txt deploy/locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip install --require-hashes --no-deps -r deploy/locks/build.txt

# The server itself, laid over the packages: a change of it leaves their layer, which is large, as it is.
FROM build AS server
COPY . .
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /dist && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-index --no-deps --prefix /opt/server /dist/*.whl

# -- What all images share. Only the volumes and /tmp are written to, so the rest may be read-only.
FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Echo TTS Server" \
      org.opencontainers.image.description="An OpenAI-compatible streaming speech server for Echo-TTS" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 echo && \
    useradd --uid 10001 --gid echo --home-dir /cache --no-create-home --shell /usr/sbin/nologin echo && \
    install --directory --owner=echo --group=echo /voices /cache /models /jobs && \
    install --directory /config
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    HOME=/cache \
    HOST=0.0.0.0 \
    PORT=8000 \
    ECHO_VOICES_DIR=/voices,audio_prompts \
    ECHO_CACHE_DIR=/cache/echo-tts \
    HF_HOME=/models/huggingface
# presets.toml and engines.toml are looked for here first.
WORKDIR /config
VOLUME ["/voices", "/cache", "/models", "/jobs"]


# -- A server on CPUs. PyPI's torch for Linux brings 3 GB of CUDA libraries, so this one comes from the PyTorch project's
# index, whose builds have hashes of their own: torch is pinned by its version here, everything else by its hash.
FROM build AS packages-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt deploy/locks/cpu.txt deploy/image/trim.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --index-url "${TORCH_INDEX}" \
      "$(grep '^torch==' constraints.txt)" && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes --no-deps -r cpu.txt && \
    sh trim.sh /opt/venv

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=server /opt/server /opt/venv
USER 10001:10001
EXPOSE 8000
# /health answers while the model loads, and 503 when the device has stopped.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health\", timeout=8)"]
CMD ["python3", "-m", "api_server"]


# -- What CUDA needs beside its libraries, which come with torch; Triton compiles its launchers with a C compiler.
FROM runtime AS runtime-gpu
RUN apt-get update && \
    apt-get install --yes --no-install-recommends gcc libc6-dev && \
    rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor


# -- A server on an NVIDIA GPU
FROM build AS packages-gpu
COPY deploy/locks/gpu.txt deploy/image/trim.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes --no-deps -r gpu.txt && \
    sh trim.sh /opt/venv

FROM runtime-gpu AS gpu
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=server /opt/server /opt/venv
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-c", \
  "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health\", timeout=8)"]
CMD ["python3", "-m", "api_server"]


# -- A serverless worker of RunPod, whose volumes belong to root: it keeps the platform's user.
FROM build AS packages-worker
COPY deploy/locks/worker.txt deploy/image/trim.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes --no-deps -r worker.txt && \
    sh trim.sh /opt/venv

FROM runtime-gpu AS worker
COPY --from=packages-worker /opt/venv /opt/venv
COPY --from=server /opt/server /opt/venv
ENV AUDIO_VOICES_DIR=/runpod-volume/audio_voices \
    HF_HOME=/runpod-volume/huggingface-cache \
    ECHO_WARM=1
CMD ["python3", "-u", "-m", "worker"]


# -- Without a --target
FROM cpu
