# `make test` is the whole check, as continuous integration runs it. Each step is a target of its own.

GO            ?= go
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
SYSTEMS       ?= linux darwin windows freebsd
FUZZTIME      ?= 60s
BENCHTIME     ?= 1s
WORKLOAD      ?= connect
PROFILE       ?= profile

.PHONY: build test peers fmt fmt-check vet lint check fuzz bench profile conformance clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o argyle ./cmd/argyle

# The packages come over the network while the processors are busy with what needs none of them.
test:
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line peers fmt-check vet lint
	@$(MAKE) --no-print-directory check

# The Debian packages that the tests talk to; only what is missing, and nothing on other systems.
peers:
	@.ci/peers

fmt:
	gofmt -w .

fmt-check:
	@files=$$(gofmt -l .) && if [ -n "$$files" ]; then echo "not formatted, run make fmt:"; echo "$$files"; exit 1; fi

vet:
	@for system in $(SYSTEMS); do \
		echo "vet for $$system"; \
		GOOS=$$system CGO_ENABLED=0 $(GO) vet ./... || exit 1; \
	done
	CGO_ENABLED=0 $(GO) vet -tags profile ./cmd/argyle

lint:
	CGO_ENABLED=0 $(GOLANGCI_LINT) run --allow-parallel-runners

# Without the peers installed: go test ./...
check:
	ARGYLE_PEERS=require CGO_ENABLED=1 $(GO) test -race -timeout 15m ./...

# Every fuzz target of every package, one after another, for FUZZTIME each.
fuzz:
	@list=$$($(GO) test -list '^Fuzz' ./...) || { echo "$$list"; exit 1; }; \
	echo "$$list" | awk '/^Fuzz/ { names[n++] = $$1 } \
		/^ok/ { for (i = 0; i < n; i++) print $$2, names[i]; n = 0 }' | \
	while read -r package name; do \
		echo "$$package $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null || exit 1; \
	done

bench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Where serve spends its time and memory under a workload of bench: cpu-PID.prof and allocs-PID.prof in PROFILE, for go tool pprof.
profile:
	$(GO) run ./bench -start argyle -only $(WORKLOAD) -rounds 1 -time 5s -profile $(PROFILE)

# What argyle probe says of argyle and of the servers that are installed, in docs/conformance.md.
conformance:
	ARGYLE_PEERS=require ARGYLE_CONFORMANCE=$(CURDIR)/docs/conformance.md $(GO) test -count=1 -run '^TestProbePeers$$' ./cmd/argyle

clean:
	rm -f argyle argyle.exe
