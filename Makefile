# SPDX-License-Identifier: Apache-2.0
# A thin layer over CMakePresets.json and scripts/. The CMake build works without it:
#   cmake --preset release && cmake --build --preset release
.DEFAULT_GOAL := help
.PHONY: help demo test build bench claims gpu-check gpu-carry format lint package clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo "  TASKS=DIR           with demo: a folder of tasks of your own (Super-NaturalInstructions files or JSON Lines)"
	@echo "  POLYAD_LIBTORCH=DIR a LibTorch 2.11 of your own instead of the pinned one"

demo:  ## train skills on eight tasks, save them, switch them per request (under 10 minutes on 2 cores)
	@TASKS="$(TASKS)" scripts/demo.sh

test:  ## every test, then the fault tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/test.sh

build:  ## the library, the command line, the samples and the tests, in build/release
	@scripts/build.sh release

bench:  ## side by side with Hugging Face PEFT and llama.cpp, in one run, on this machine (docs/performance.md)
	@bench/run.sh

claims:  ## every method at equal budgets on real tasks, and planted skills found again (BUDGET=MINUTES, SEEDS=N)
	@BUDGET="$(BUDGET)" SEEDS="$(SEEDS)" scripts/claims.sh

gpu-check:  ## on a machine with an NVIDIA GPU: builds the CUDA library, runs its tests, parity, every method and the benchmarks
	@scripts/gpu_check.sh $(CARRIED)

gpu-carry:  ## gathers into .gpu what gpu-check needs on a machine without network and Rust
	@scripts/gpu_carry.sh .gpu

format:  ## clang-format on every C++ file
	@scripts/bootstrap.sh --dev
	@scripts/sources.sh | xargs -0 clang-format -i

lint:  ## what `make format` would change, and clang-tidy; changes nothing
	@scripts/bootstrap.sh --dev
	@scripts/lint.sh

package:  ## archive, .deb, Maven and NuGet packages, Go module, each tried out from a clean folder
	@scripts/package.sh

clean:  ## remove what was built; what was fetched stays
	@rm -rf build demo-run claims-run

distclean:  ## remove what was built and what was fetched
	@rm -rf build demo-run .deps
