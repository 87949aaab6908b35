# `make help` lists the targets. Everything is built with one profile, so that dependencies are built once.

plain_flags := --release --locked
# With what a user's build leaves out, for it needs protoc: candle-onnx looks at exported graphs, too.
cargo_flags := $(plain_flags) --features candle-onnx
demo := out/demo
comma := ,
maturin := 1.16.0

# Runs the rest of a recipe line with the onnxruntime that `make setup` fetched, unless ORT_DYLIB_PATH says otherwise.
with_onnxruntime = lib=$$(ls .tools/python/onnxruntime/capi/libonnxruntime.* 2>/dev/null | head -n 1); \
	[ -n "$$ORT_DYLIB_PATH" ] || [ -z "$$lib" ] || export ORT_DYLIB_PATH="$$PWD/$$lib";

.DEFAULT_GOAL := help
.PHONY: help setup build demo onnx capi check-capi wheel check-wheel test check check-page check-store check-cuda package bench release

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' Makefile | while read -r name what; do printf 'make %-10s %s\n' "$$name" "$$what"; done

setup: ## fetch what is missing of protoc and onnxruntime into .tools (pip, no root); the other targets do it first
	@.cargo/setup

build: setup ## gan-train and gan-infer, into target/release
	cargo build $(cargo_flags) $(BUILD)

demo: build ## train a small GAN on synthetic digits, export it, draw 1000 images with onnxruntime, and some by the built-in generators; in out/demo
	rm -rf $(demo)
	@$(with_onnxruntime) set -ex; \
	cargo run -q $(cargo_flags) --bin gan-train -- --preset digits --data synthetic --set data.classes=10 --out $(demo)/run; \
	cargo run -q $(cargo_flags) --bin gan-infer -- --n 1000 --out $(demo)/samples --model $(demo)/run/generator.onnx; \
	cargo run -q $(cargo_flags) --bin gan-infer -- --n 100 --format grid --out $(demo)/grid.png --model $(demo)/run/generator.onnx; \
	for name in faces digits fashion; do cargo run -q $(cargo_flags) --bin gan-infer -- --n 100 --format grid --out $(demo)/$$name.png --model $$name; done
	@echo
	@echo 'The training run:        $(demo)/run'
	@echo 'The generator:           $(demo)/run/generator.onnx'
	@echo '1000 images:             $(demo)/samples'
	@echo '100 of them on a sheet:  $(demo)/grid.png'
	@echo 'The report of the run:   $(demo)/run/report.html'
	@echo 'Built-in generators:     $(demo)/faces.png, $(demo)/digits.png and $(demo)/fashion.png'

onnx: build ## make the built-in models in onnx/ from their folders in models/, byte for byte the same
	@$(with_onnxruntime) set -ex; for run in models/*/; do \
	name=$$(basename "$$run"); export() { cargo run -q $(cargo_flags) --bin gan-train -- export "$$run" --out "onnx/$$name$$1.onnx" $$2; }; \
	case "$$name" in features-*) export '' '';; *) export '' '--dtype w8'; export .int8 '--dtype int8';; esac; done

# The name by which programs ask for the library when they start, as cargo-c gives it.
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
soname := $(if $(filter Linux,$(shell uname -s)),-C link-arg=-Wl$(comma)-soname$(comma)libganforge.so.$(basename $(version)))

capi: ## the library for C and C++, shared and static, with header and pkg-config file; into PREFIX, or out/capi
	cargo rustc $(plain_flags) --lib --no-default-features --features capi,builtin --crate-type cdylib,staticlib -- $(soname)
	.cargo/install-capi "$${CARGO_TARGET_DIR:-target}" "$${PREFIX:-out/capi}"

check-capi: build capi ## C and C++ programs against that library, under valgrind where there is one
	@$(with_onnxruntime) set -x; tests/capi/check.sh "$${PREFIX:-out/capi}" "$${CARGO_TARGET_DIR:-target}/release/gan-infer" "$$ORT_DYLIB_PATH"

# The programs come along, in a folder of the name that maturin looks for.
scripts := ganforge._ganforge.data/scripts

wheel: build ## the Python package, with the programs in it, into out/wheels
	rm -rf $(dir $(scripts)) && mkdir -p $(scripts)
	cp "$${CARGO_TARGET_DIR:-target}"/release/gan-infer "$${CARGO_TARGET_DIR:-target}"/release/gan-train $(scripts)
	-strip $(scripts)/gan-*
	@python=$${PYTHON:-python3}; maturin=.tools/maturin; \
	"$$maturin/bin/maturin" --version 2>/dev/null | grep -q ' $(maturin)$$' || { \
	echo "fetching maturin $(maturin) with pip into $$maturin" >&2; rm -rf "$$maturin"; \
	"$$python" -I -m pip install --quiet --no-deps --target "$$maturin" maturin==$(maturin); } && \
	set -x && "$$maturin/bin/maturin" build --release --locked --out out/wheels --interpreter "$$python"
	rm -rf $(dir $(scripts))

check-wheel: wheel ## that package in a fresh environment beside onnxruntime
	tests/python/check.sh out/wheels "$${CARGO_TARGET_DIR:-target}/release/gan-infer"

test: setup ## the whole test suite; tests on real data need GANFORGE_DATA
	@[ -n "$$GANFORGE_DATA" ] || echo 'GANFORGE_DATA is not set (a folder with mnist/, fashion-mnist/ and more): tests on real data will skip.'
	@[ -n "$$GANFORGE_OPENVINO" ] || echo 'GANFORGE_OPENVINO is not set (an onnxruntime with OpenVINO): tests of that provider will skip.'
	@$(with_onnxruntime) set -x; cargo test $(cargo_flags)

check: setup ## formatting, lints, documentation, the combinations of features that people build
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
	{ echo "rustfmt or clippy is missing: run 'rustup component add rustfmt clippy'" >&2; exit 1; }
	cargo fmt --check
	cargo clippy $(cargo_flags) --all-targets -- -D warnings
	cargo clippy $(plain_flags) --all-targets -- -D warnings
	cargo clippy $(plain_flags) --no-default-features -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features train -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features infer -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features jobs,cli --all-targets -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features infer,builtin,capi,python -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features train,infer -- -D warnings
	cargo clippy $(plain_flags) --no-default-features --features train,cli --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(cargo_flags) --no-deps
	@command -v cargo-deny >/dev/null || { set -x; cargo install --quiet --locked cargo-deny@0.20.2; }
	cargo deny --locked check licenses bans sources
	@if cargo deny fetch db >/dev/null 2>&1; then set -x; cargo deny --locked check advisories; \
	else echo 'advisories: not checked, for their database (on GitHub) cannot be fetched here'; fi
	@set -e; \
	packages() { cargo tree --locked --edges normal,build --prefix none --format '{p}' "$$@"; }; \
	all=$$(packages); train=$$(packages --no-default-features --features train); \
	infer=$$(packages --no-default-features --features jobs,cli,builtin); \
	has() { printf '%s\n' "$$1" | grep -Eq "$$2"; }; \
	candle='^candle-'; ort='^ort(-sys)? '; \
	has "$$all" "$$candle" && has "$$all" "$$ort" || { echo 'cargo tree shows neither candle nor ort: mend this check' >&2; exit 1; }; \
	! has "$$infer" "$$candle" || { echo 'the feature infer pulls in candle' >&2; exit 1; }; \
	! has "$$train" "$$ort" || { echo 'the feature train pulls in ort' >&2; exit 1; }; \
	echo 'infer does without candle, train without ort'

check-page: build ## try what `gan-infer page` writes in headless Chromium, pixels against gan-infer's; PAGE='--screens DIR' or --measure
	@for tool in node npm; do command -v $$tool >/dev/null || { echo "check-page: skipped, for there is no $$tool"; exit 0; }; done; \
	$(with_onnxruntime) set -ex; \
	node tests/page/test.js "$${CARGO_TARGET_DIR:-target}/release/gan-infer" $(PAGE)

# In a folder of its own: another set of features would make `make test` build everything again. kernels.cu
# is compiled again at run time, for the GPU that is there.
cuda_target := $(or $(CARGO_TARGET_DIR),target)/cuda

cuda_cargo := $(cargo_flags) --target-dir $(cuda_target) --features cuda
host_c++ := c++ -std=c++20 -O2 -Wall -Wno-unknown-pragmas -Wno-narrowing
sham := $(cuda_target)/sham

check-cuda: setup ## compile the CUDA build, try it on a sham GPU that computes on the CPU; fetches a CUDA toolkit if there is none
	@set -e; exports=$$(.cargo/cuda-toolkit); eval "$$exports"; $(with_onnxruntime) set -x; \
	cargo clippy $(cuda_cargo) --all-targets -- -D warnings; \
	for arch in 80 90; do nvcc --cubin --Werror all-warnings -arch=sm_$$arch -o $(cuda_target)/kernels-$$arch.cubin src/nn/cuda/kernels.cu; done; \
	$(host_c++) tests/cuda/kernels.cpp -o $(cuda_target)/kernels; $(cuda_target)/kernels; \
	mkdir -p $(sham); toolkit=$$(dirname "$$(dirname "$$(command -v nvcc)")"); \
	$(host_c++) -shared -fPIC -I"$$toolkit/include" tests/cuda/sham.cpp tests/cuda/device.cpp tests/cuda/sums.cpp -o $(sham)/libcuda.so.1; \
	loaded=$$(cd $(sham) && pwd); export LD_LIBRARY_PATH="$$loaded$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}"; \
	cargo build $(cuda_cargo) --bin gan-train; \
	python3 tests/cuda/count.py $(cuda_target)/release/gan-train $(sham)/libcuda.so.1; \
	CARGO_TERM_COLOR=never cargo test $(cuda_cargo) --test suite --no-run 2>$(sham)/suite.log || { cat $(sham)/suite.log >&2; exit 1; }; \
	suite=$$(sed -n 's/^ *Executable .*(\(.*\))$$/\1/p' $(sham)/suite.log); \
	LD_PRELOAD="$$loaded/libcuda.so.1" SHAM_COMPUTES=1 GANFORGE_NEEDS_GPU=1 "$$suite" cuda::

# Not a part of `check`: what it is built on takes longer than all of gan-infer. Tests against S3 skip without moto (pip install 'moto[server]').
check-store: setup ## lints and tests of object stores as --out (the feature object-store)
	cargo clippy $(plain_flags) --no-default-features --features jobs,cli,object-store --all-targets -- -D warnings
	@$(with_onnxruntime) set -x; cargo test $(plain_flags) --no-default-features --features jobs,cli,object-store -- store:: merge::

package: ## what goes to crates.io: both crates, packed and compiled as a user would, without sending them
	cargo publish --dry-run --allow-dirty --locked --workspace --no-default-features --features ganforge/infer,ganforge/builtin

bench: setup ## training speed and memory against PyTorch (GANFORGE_PYTHON has it, or pip fetches it); BENCH='--rounds 3' and so on
	@set -e; [ -n "$$GANFORGE_PYTHON" ] || { \
	torch=.tools/torch; export GANFORGE_PYTHON="$$PWD/$$torch/bin/python"; \
	"$$GANFORGE_PYTHON" -c 'import torch' 2>/dev/null || { \
	echo "fetching PyTorch with pip into $$torch" >&2; \
	$${PYTHON:-python3} -I -m venv --clear $$torch; "$$GANFORGE_PYTHON" -I -m pip install --quiet torch==2.15.0 numpy; }; }; \
	set -x; cargo bench $(cargo_flags:--release=) --bench train -- $(BENCH)

release: setup ## archives of both programs with man pages and completions, and their checksums, in dist; TARGETS='x86_64-unknown-linux-gnu …'
	@.ci/release $(TARGETS)
