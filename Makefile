# The steps of .ci/run under obvious names.

.PHONY: all build fmt vet lint test race soak demo scripts bench bench-scale ci docker release-test docker-test deploy-test

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
	go test -race -shuffle=on -timeout 40m ./...

# Re-encryption under chaos, with as many seeds as asked: make soak SEEDS=5000 FROM=201
# Then the reactions with grouped alerts, 500 seeds; killed worker processes in a job of 20,000 objects, a worker's memory over the
# largest messages and over a sweep of 100,000 keys, floods, rotations that are killed at each of their requests, also over
# 20,000 objects, and 100,000 key policies that are judged and played.
SEEDS ?= 1000
FROM ?= 1
soak:
	CMKEEPER_CHAOS_SEEDS=$(SEEDS) CMKEEPER_CHAOS_FROM=$(FROM) go test -C reencrypt -count=1 -timeout 0 -run '^TestChaos$$'
	CMKEEPER_CHAOS_SEEDS=500 go test -C handlers -count=1 -timeout 0 -v -run '^TestChaos$$'
	CMKEEPER_SOAK=1 go test -count=1 -v -timeout 30m -run '^Test(KilledWorkers|MemoryOfLargeMessages)$$' ./internal/cli
	CMKEEPER_SOAK=1 go test -count=1 -v -timeout 2h -run '^TestMemoryOfASweep$$' ./internal/cli
	CMKEEPER_SOAK=1 go test -count=1 -v -run '^Test(FloodOf|Storm$$|SensitiveInFlood|ManyEndings)' ./handlers
	CMKEEPER_SOAK=1 go test -count=1 -v -timeout 2h -run 'Killed' ./rotate
	CMKEEPER_DIFFERENTIAL_POLICIES=100000 go test -count=1 -timeout 0 -v -run '^TestJudgementAgainstEvaluator$$' ./keypolicy

demo:
	go run . demo

# Plays localstack/init.sh and try.sh against "cmkeeper local".
scripts: build
	bash .ci/scripts

# The figures of docs/performance.md.
bench:
	go test -run '^$$' -bench . -benchmem ./events ./handlers ./keypolicy
	GOMAXPROCS=1 go test -run '^$$' -bench Throughput -benchtime 200x ./envelope
	go test -run '^$$' -bench Cache -benchtime 1000000x ./envelope
	go test -run '^$$' -bench Objects -benchtime 8x ./reencrypt
	go test -run '^$$' -bench Memory -benchtime 1x ./reencrypt
	go test -run '^$$' -bench Drain -benchtime 5x ./internal/cli
	go test -run '^$$' -bench 'Start|Idle' -benchtime 10x ./internal/cli

# Re-encryption at scale: a worker's memory, CPU time and speed beside a plain loop
# over the SDK, and what it reaches of S3's limits in modelled time. Half an hour on
# two cores; BENCH_SCALE="-objects 10000,100000" makes it minutes.
bench-scale: build
	CMKEEPER_SOAK=1 go test -v -count=1 -timeout 30m -run 'TestWorkersReachWhatS3Allows|TestFleetOfFourKeepsItsRate|TestRequestsPerObject' ./reencrypt
	go build -o bin/scale ./internal/scale
	bin/scale -binary bin/cmkeeper $(BENCH_SCALE)

ci:
	bash .ci/run

# cfn-lint, seeded faults, all runs under the roles of the template, and the stack on moto.
deploy-test:
	bash .ci/deploy

docker:
	docker build -t cmkeeper .

# Two builds of a release have the same digests, and in it is what should be. Ten minutes.
release-test:
	bash .ci/release-test

# The image and both compose files, with an engine of its own where none runs.
docker-test:
	bash .ci/docker
