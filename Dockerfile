# Both base images are arguments, so that the image can be built from a mirror:
#   docker build --build-arg BUILD_IMAGE=mirror.example/golang:1.26 .
ARG BUILD_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath \
      -ldflags "-s -w -X github.com/cmkeeper/cmkeeper/internal/cli.version=${VERSION}" \
      -o /cmkeeper .

# The base has certificates and nothing else: no shell, no package manager.
FROM ${BASE_IMAGE}
COPY --from=build /cmkeeper /cmkeeper
USER 65532:65532
EXPOSE 8080
# Where every command serves its health, and the health check asks.
ENV CMKEEPER_HTTP_ADDR=:8080
# The worker drains for CMKEEPER_DRAIN_TIMEOUT (25 s): stop it with SIGTERM and
# give it more than that (ECS stopTimeout, docker stop --time).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["/cmkeeper", "health"]
ENTRYPOINT ["/cmkeeper"]
CMD ["worker"]
