# Thin names for what is done often. As root on a fresh Debian 12 or Ubuntu: `make demo`, `make test`.
prefix ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# Interpreters of other Debian suites for the tests; outside the tree, kept between runs.
INTERPRETERS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pylow-interpreters

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BINARY = $(TARGET_DIR)/release/pylow
BPF_SOURCES = $(wildcard bpf/*.c bpf/*.h bpf/lib/*.h vmlinux/*.h)
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

BUILD_PACKAGES = gcc libc6-dev make pkg-config clang libelf-dev zlib1g-dev
TEST_PACKAGES = python3 util-linux patchelf
LINT_PACKAGES = clang-format

.DELETE_ON_ERROR:
.PHONY: all build test bless fmt lint bench demo interpreters static install deps cargo

all: build

build: cargo ## release binary
	$(CARGO) build --release --locked
	@echo "built $(BINARY)"

test: deps cargo ## everything, with BPF where this user may
	$(CARGO) test --locked --doc
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		PYLOW_INTERPRETERS="$(INTERPRETERS)" $(CARGO) nextest run --locked; \
	else \
		PYLOW_INTERPRETERS="$(INTERPRETERS)" $(CARGO) test --locked --all-targets; \
	fi

bless: cargo ## rewrite the golden files from what the binary says now
	PYLOW_BLESS=1 $(CARGO) test --locked --test golden

fmt: cargo ## format Rust and C
	$(CARGO) fmt
	clang-format -i $(BPF_SOURCES)

lint: cargo ## formats, warnings as errors, licences
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	clang-format --dry-run -Werror $(BPF_SOURCES)
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check; \
	else echo "NOT RUN: cargo deny (licences and sources): cargo install cargo-deny"; fi

bench: build ## side by side with py-spy and bpftrace, as root
	python3 benches/peers.py --pylow "$(BINARY)"

demo: deps build ## attach to a small service under load
	$(SUDO) tests/demo.sh "$(BINARY)"

interpreters: ## Debian's CPython 3.9, 3.13, 3.14 and 3.15, unpacked into $(INTERPRETERS)
	tests/interpreters.sh "$(INTERPRETERS)"

# One file that runs on any distribution: C library, libelf and zlib linked in. The explicit target keeps crt-static
# away from build scripts and procedural macros. Newer elfutils compress with zstd.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
LIBELF = $(firstword $(wildcard /usr/lib/$(shell uname -m)-linux-gnu/libelf.a /usr/lib64/libelf.a /usr/lib/libelf.a))
ZSTD = $(if $(shell nm $(LIBELF) 2>/dev/null | grep -m1 ZSTD_),-Clink-arg=-lzstd)
static: cargo ## one static binary
	@test -n "$(LIBELF)" || { echo "libelf.a not found: make deps" >&2; exit 1; }
	LIBBPF_SYS_LIBRARY_PATH="$(dir $(LIBELF))" RUSTFLAGS="-Ctarget-feature=+crt-static $(ZSTD)" \
		$(CARGO) build --release --locked --features static --target $(HOST)
	@echo "built $(TARGET_DIR)/$(HOST)/release/pylow"

# Installs what is built; `make` first, so that root needs no compiler.
install: ## binary, man pages and completions under $(DESTDIR)$(prefix)
	@test -x "$(BINARY)" || { echo "$(BINARY) is not there: run make first" >&2; exit 1; }
	install -D -m 755 "$(BINARY)" "$(DESTDIR)$(prefix)/bin/pylow"
	install -d "$(DESTDIR)$(prefix)/share/man/man1"
	"$(BINARY)" generate man "$(DESTDIR)$(prefix)/share/man/man1"
	install -d "$(DESTDIR)$(prefix)/share/bash-completion/completions" "$(DESTDIR)$(prefix)/share/zsh/site-functions" \
		"$(DESTDIR)$(prefix)/share/fish/vendor_completions.d"
	"$(BINARY)" generate bash > "$(DESTDIR)$(prefix)/share/bash-completion/completions/pylow"
	"$(BINARY)" generate zsh > "$(DESTDIR)$(prefix)/share/zsh/site-functions/_pylow"
	"$(BINARY)" generate fish > "$(DESTDIR)$(prefix)/share/fish/vendor_completions.d/pylow.fish"

deps: ## what is missing of the distribution's packages (Debian, Ubuntu)
	@if ! command -v apt-get >/dev/null; then \
		echo "not Debian or Ubuntu: these must be there: $(BUILD_PACKAGES) $(TEST_PACKAGES) $(LINT_PACKAGES)"; exit 0; \
	fi; \
	missing=; for package in $(BUILD_PACKAGES) $(TEST_PACKAGES) $(LINT_PACKAGES); do \
		dpkg-query -W -f='$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing:$$missing"; \
		$(SUDO) apt-get -q update && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing; \
	fi

cargo:
	@if ! command -v $(CARGO) >/dev/null && apt-cache show rustup >/dev/null 2>&1; then \
		$(SUDO) apt-get -q install -y --no-install-recommends rustup && rustup default stable; \
	fi; \
	command -v $(CARGO) >/dev/null || { \
		echo "error: no Rust toolchain (cargo) on PATH" >&2; \
		echo "  pylow needs Rust 1.88 or newer; Debian 12 packages 1.63" >&2; \
		echo "hint: install it with rustup, then open a new shell" >&2; exit 1; }
