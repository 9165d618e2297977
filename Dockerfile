# posttrain's service. CPU by default; for CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/posttrain
ENV PATH=/opt/posttrain/bin:$PATH PIP_NO_CACHE_DIR=1
COPY constraints.txt pyproject.toml README.md LICENSE ./
# torch first and from its own index, so that the layer is kept while the code changes
RUN pip install --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)"
COPY engine engine
COPY evals evals
COPY registry registry
COPY service service
COPY tui tui
RUN pip install -c constraints.txt '.[gguf,math]'

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 10001 posttrain && install -d -o posttrain /data
COPY --from=build /opt/posttrain /opt/posttrain
ENV PATH=/opt/posttrain/bin:$PATH POSTTRAIN_HOME=/data HF_HUB_OFFLINE=1
USER 10001
VOLUME /data
# Until there is authentication the service listens on loopback only: reach it from inside (docker exec), or share the host's
# network with --network=host.
HEALTHCHECK --interval=30s --timeout=5s CMD ["posttrain", "jobs", "list", "--json"]
CMD ["posttrain", "serve"]
