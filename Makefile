# The steps of .ci/run under obvious names.

.PHONY: all build fmt vet lint test race soak demo scripts bench ci docker

all: fmt vet test

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/cmkeeper .

fmt:
	gofmt -w .

vet:
	go vet ./...

lint:
	go tool -modfile=tools.mod golangci-lint run

test:
	go test ./...

race:
	go test -race -shuffle=on ./...

# Re-encryption under chaos, with as many seeds as asked: make soak SEEDS=5000 FROM=201
# Then killed worker processes in a job of 20,000 objects.
SEEDS ?= 1000
FROM ?= 1
soak:
	CMKEEPER_CHAOS_SEEDS=$(SEEDS) CMKEEPER_CHAOS_FROM=$(FROM) go test -C reencrypt -count=1 -timeout 0 -run '^TestChaos$$'
	CMKEEPER_SOAK=1 go test -count=1 -v -run '^TestKilledWorkers$$' ./internal/cli

demo:
	go run . demo

# Plays localstack/init.sh and try.sh against "cmkeeper local".
scripts: build
	bash .ci/scripts

# The figures of docs/performance.md.
bench:
	go test -run '^$$' -bench . -benchmem ./events ./handlers ./worker ./reencrypt ./keypolicy

ci:
	bash .ci/run

docker:
	docker build -t cmkeeper .
