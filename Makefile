# ds4: one Makefile, no recursion. Output goes to build/<variant>/, so that
# variants live side by side; the programs of the release variant are linked
# at the root.
#
#   make               the programs
#   make demo          installs what is missing, builds, answers a prompt
#   make test          all tests
#   make asan          all tests under ASan and UBSan
#   make tsan          all tests under TSan
#   make fuzz          fuzzes every parser, FUZZ_SECONDS each
#   make cuda          the programs with the CUDA kernels inside (needs nvcc; CUDA_ARCHS="90a" for one card)
#   make test-cuda     the kernels' tests on this machine's card
#   make cuda-launches a step of the released shape, launch by launch, without a card
#   make cuda-bundle   programs and tests with CUDA kernels in one archive, for bench/gpu.sh on another machine
#   make bench         speed of this machine, beside a peer where one installs
#   make bench-kernels the CPU's inner loops alone; bench-tokenizer, bench-pool: what their names say
#   make layers        which module includes which, against docs/architecture.md
#   make deps          system packages for building and testing
#   make install       PREFIX=/usr/local; PROGRAMS_OF=cuda/bin: what make cuda built
#   make clean         away with build/ and the links to programs
#
# V=1 shows the commands; VARIANT=asan (tsan, fuzz) names another variant for any target.

VARIANT ?= release
CC      ?= cc
PREFIX  ?= /usr/local
B       := build/$(VARIANT)

ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)
SYSTEM  := $(shell uname -s)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

CFLAGS_release := -O2 -g
CFLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_tsan    := -O1 -g -fsanitize=thread
CFLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -DDS4_SCALAR

# Contraction is off for the whole tree: definitions and encoders must give the
# same bits on every machine. Kernels that fuse say so with intrinsics.
CFLAGS   = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla \
           -Werror=implicit-function-declaration -ffp-contract=off -fno-math-errno -pthread \
           -Iinclude -Isrc $(CFLAGS_$(VARIANT)) $(EXTRA_CFLAGS)
LDFLAGS  = -pthread $(CFLAGS_$(VARIANT)) $(EXTRA_LDFLAGS)
LIBS     = -lm -ljson-c -ldl
NET_LIBS = -luv -lcrypto

ifeq ($(SYSTEM),Darwin)         # json-c comes from Homebrew, which no compiler searches
BREW    := $(shell brew --prefix 2>/dev/null)
CFLAGS  += -I$(BREW)/include
LDFLAGS += -L$(BREW)/lib
endif

ifeq ($(VARIANT),fuzz)
CC := clang
endif

# Instruction sets: a file name's ending says what it may use.
ISA_x86_64  := avx2 avx512 avx512vbmi
ISA_aarch64 := neon neon_i8mm
ISA_arm64   := neon neon_i8mm
ISAS        := $(ISA_$(ARCH))
ifeq ($(VARIANT),fuzz)          # parsers are what is fuzzed; intrinsics take clang many minutes to instrument
ISAS        :=
endif
OTHER_ISAS  := $(filter-out $(ISAS),avx2 avx512 avx512vbmi neon neon_i8mm)
FLAGS_avx2   := -mavx2 -mfma -mf16c
FLAGS_avx512 := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
FLAGS_avx512vbmi := $(FLAGS_avx512) -mavx512vbmi -mgfni
FLAGS_neon   := -march=armv8.2-a+dotprod
FLAGS_neon_i8mm := -march=armv8.2-a+dotprod+i8mm

SRC  := $(filter-out $(foreach i,$(OTHER_ISAS),%_$(i).c),$(wildcard src/*/*.c src/kernels/cpu/*.c src/kernels/cuda/*.c))
OBJ  := $(SRC:%.c=$(B)/%.o)
LIB  := $(B)/libds4.a

PROGRAMS := ds4 ds4-server ds4-gguf ds4-bench
MAIN_ds4      := app/cli.c
MAIN_ds4-server := app/serve.c
MAIN_ds4-gguf := app/gguf.c
MAIN_ds4-bench := app/bench.c
APP_SRC  := $(filter-out app/cli.c app/serve.c app/gguf.c app/bench.c,$(wildcard app/*.c))
APP_OBJ  := $(APP_SRC:%.c=$(B)/%.o)
CLI_SRC  := $(wildcard app/cli/*.c)
CLI_OBJ  := $(CLI_SRC:%.c=$(B)/%.o)
SERVE_SRC := $(wildcard app/serve/*.c)
SERVE_OBJ := $(SERVE_SRC:%.c=$(B)/%.o) $(patsubst %,$(B)/app/cli/%.o,model model_path signals)
BENCH_SRC := $(wildcard app/bench/*.c)
BENCH_OBJ := $(BENCH_SRC:%.c=$(B)/%.o) $(B)/app/cli/model_path.o $(B)/app/cli/signals.o

TEST_SRC := $(wildcard $(foreach d,unit kernels tiny golden fault conformance server gpu_host,tests/$(d)/test_*.c))
TESTS    := $(TEST_SRC:%.c=$(B)/%)
ifeq ($(SYSTEM),Darwin)         # no memfd_create, and no peer; a linker that wraps nothing
TESTS    := $(filter-out $(B)/tests/unit/test_twin $(B)/tests/gpu_host/test_cuda_cards,$(TESTS))
endif
FAULTS   := $(filter $(B)/tests/fault/%,$(TESTS))
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZERS  := $(FUZZ_SRC:%.c=$(B)/%)
REPLAYS  := $(FUZZ_SRC:%.c=$(B)/%_replay)
FUZZ_SECONDS ?= 60

.PHONY: all help deps demo test asan tsan fuzz install clean layers programs tests
.SECONDARY:
all: programs
programs: $(PROGRAMS)
	@echo "ds4 $(COMMIT): $(ARCH), CPU kernels: ref $(ISAS); built: $(PROGRAMS)"

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

# $(call link,LIBRARIES): a program of the objects and archives it depends on.
define link
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(1) -o $@
endef

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

define isa_rule
$(B)/%_$(1).o: %_$(1).c
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $$(FLAGS_$(1)) -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

# The commit is compiled into one file only, again when there is a new one.
$(B)/app/version.o: $(wildcard .git/logs/HEAD)
$(B)/app/version.o: EXTRA_CFLAGS += -DDS4_COMMIT='"$(COMMIT)"' -DDS4_FLAGS='"$(VARIANT) $(ARCH) $(ISAS)"'

# ---- the library and the programs ---------------------------------------------

$(LIB): $(OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

# Each program twice: with the library's empty table of CUDA kernels, and with a full one before it.
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4): $(B)/app/cli.o $(CLI_OBJ) $(APP_OBJ) $(LIB)
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4-server): $(B)/app/serve.o $(SERVE_OBJ) $(APP_OBJ) $(LIB)
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4-gguf): $(B)/app/gguf.o $(APP_OBJ) $(LIB)
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4-bench): $(B)/app/bench.o $(BENCH_OBJ) $(APP_OBJ) $(LIB)
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4): LIBS += -ledit
$(foreach d,bin cuda/bin,$(B)/$(d)/ds4-server): LIBS += $(NET_LIBS)
CUDA_PROGRAMS := $(PROGRAMS:%=$(B)/cuda/bin/%)
$(CUDA_PROGRAMS): $(B)/cuda/cuda_image.o
$(PROGRAMS:%=$(B)/bin/%) $(CUDA_PROGRAMS):
	$(call link)
# The link says which of the two is meant, so it is made every time.
.PHONY: $(PROGRAMS)
$(PROGRAMS): %: $(B)/bin/%
	@ln -sf $< $@

# ---- tests --------------------------------------------------------------------

$(B)/tests/runner.o: tests/runner.c
$(TESTS): $(B)/tests/%: $(B)/tests/%.o $(B)/tests/runner.o $(LIB)
	$(call link,$(NET_LIBS))

$(filter $(B)/tests/golden/%,$(TESTS)): $(B)/tests/golden/golden.o
$(filter $(B)/tests/unit/test_twin,$(TESTS)): $(B)/bench/peers/twin.o

# These run the server's code over an engine without a model, which stands before the library's.
FAKED := $(filter $(patsubst %,$(B)/tests/server/test_%,scheduler% serve% replay20),$(TESTS))
$(FAKED): $(B)/tests/server/fake_engine.o
$(B)/bin/ds4-server-scripted: $(B)/app/serve.o $(SERVE_OBJ) $(APP_OBJ) $(B)/tests/server/fake_engine.o $(LIB)
	$(call link,$(NET_LIBS))

# These have a backend of their own, which stands before the library's.
$(filter $(B)/tests/tiny/test_far_%,$(TESTS)): $(B)/tests/tiny/far_memory.o

FAR_HOST := $(patsubst %,$(B)/tests/tiny/%.o,far_program far_memory fate)
FAR      := $(B)/bin/ds4-far $(B)/bin/ds4-server-far
$(B)/bin/ds4-far: $(B)/app/cli.o $(CLI_OBJ) $(APP_OBJ)
$(B)/bin/ds4-far: LIBS += -ledit
$(B)/bin/ds4-server-far: $(B)/app/serve.o $(SERVE_OBJ) $(APP_OBJ)
$(B)/bin/ds4-server-far: LIBS += $(NET_LIBS)
$(FAR): $(FAR_HOST) $(LIB)
	$(call link)

# Names the first tensor of a run that leaves its golden values.
$(B)/bin/golden-trace: $(B)/tools/golden_trace.o $(B)/tests/golden/golden.o $(LIB)
	$(call link)
$(B)/tools/%.o: EXTRA_CFLAGS += -Itests

# tests/fault/{alloc,reads}.c stand between these programs and the allocator and the
# files they read, where the linker can do that.
$(FAULTS): $(B)/tests/fault/alloc.o $(B)/tests/fault/reads.o
ifneq ($(SYSTEM),Darwin)
$(FAULTS): EXTRA_LDFLAGS += $(foreach f,malloc calloc realloc aligned_alloc strdup pread,-Wl,--wrap=$(f))
endif

# ---- CUDA ---------------------------------------------------------------------

# The CUDA kernels as host code, lane by lane, behind a device that is none (tests/gpu_host).
CXX      ?= c++
CXXFLAGS  = -std=c++17 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-function -Wno-unknown-pragmas -ffp-contract=off \
            -fno-math-errno -pthread -Iinclude -Isrc -Itests/gpu_host $(CFLAGS_$(VARIANT)) $(EXTRA_CXXFLAGS)
CUDA_SRC := $(wildcard src/kernels/cuda/*.cu)
LANE_OBJ := $(CUDA_SRC:%.cu=$(B)/lanes/%.o) $(patsubst %,$(B)/lanes/tests/gpu_host/%.o,lanes lane_matrix lane_table)
PTX_OBJ  := $(patsubst %.cpp,$(B)/lanes/%.o,$(wildcard tests/gpu_host/ptx_*.cpp))
GPU_HOST := $(LANE_OBJ) $(PTX_OBJ) $(patsubst %,$(B)/tests/gpu_host/%.o,fake_device fake_queue mock_cuda checked)
GPU_TESTS := $(filter $(B)/tests/gpu_host/%,$(TESTS))
$(B)/lanes/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) -x c++ $(CXXFLAGS) -MMD -MP -c $< -o $@
$(B)/lanes/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) $(CXXFLAGS) -MMD -MP -c $< -o $@
$(GPU_TESTS): $(GPU_HOST)
# The card of tests/fault finds host memory for itself when the code under test does not.
FAULT_CARD := $(LANE_OBJ) $(PTX_OBJ) $(patsubst %,$(B)/tests/gpu_host/%.o,fake_device fake_queue mock_cuda)
ifneq ($(SYSTEM),Darwin)
$(B)/tests/fault/card.o: $(FAULT_CARD)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(LD) -r $^ -o $@
	$(Q)objcopy $(foreach f,malloc calloc realloc aligned_alloc,--redefine-sym $(f)=__real_$(f)) $@
FAULT_CARD := $(B)/tests/fault/card.o
endif
$(filter %/test_cuda_fault,$(FAULTS)): $(FAULT_CARD)
$(filter %/test_cuda_fault,$(FAULTS)): LIBS += -lstdc++
$(foreach d,tests cuda/tests,$(B)/$(d)/gpu_host/test_lanes): $(B)/lanes/tests/gpu_host/lane_samples.o
$(foreach d,tests cuda/tests,$(B)/$(d)/gpu_host/test_cuda_golden): $(B)/tests/golden/golden.o
$(foreach d,tests cuda/tests,$(B)/$(d)/gpu_host/test_cuda_cards): $(B)/tests/gpu_host/counting_device.o
$(foreach d,tests cuda/tests,$(B)/$(d)/gpu_host/test_cuda_cards): EXTRA_LDFLAGS += -Wl,--wrap=file_write_all
$(GPU_TESTS): LIBS += -lstdc++
$(B)/tests/gpu_host/%.o: EXTRA_CFLAGS += -Itests/gpu_host

# A step of the released shape, launch by launch, over a device that only counts.
.PHONY: cuda-launches
$(B)/bin/cuda-launches: $(patsubst %,$(B)/tests/gpu_host/%.o,launches launch_cost counting_device) $(LIB)
	$(call link)
$(B)/bin/cuda-launches: EXTRA_LDFLAGS += -Wl,--wrap=file_write_all
cuda-launches: $(B)/bin/cuda-launches
	@$<

# Whole programs, and tests as they are on a card, whose driver is the mock: bench/gpu.sh runs over them.
MOCK_HOST := $(filter-out $(B)/tests/gpu_host/checked.o,$(GPU_HOST)) $(B)/tests/gpu_host/mock_program.o $(B)/tests/tiny/fate.o
MOCKED    := $(patsubst %,$(B)/mock/%,bin/ds4 bin/ds4-server bin/ds4-bench tests/gpu_host/test_cuda_rows)
$(B)/mock/bin/ds4: $(B)/app/cli.o $(CLI_OBJ) $(APP_OBJ)
$(B)/mock/bin/ds4: LIBS += -ledit
$(B)/mock/bin/ds4-server: $(B)/app/serve.o $(SERVE_OBJ) $(APP_OBJ)
$(B)/mock/bin/ds4-server: LIBS += $(NET_LIBS)
$(B)/mock/bin/ds4-bench: $(B)/app/bench.o $(BENCH_OBJ) $(APP_OBJ)
$(B)/mock/tests/gpu_host/test_cuda_rows: $(patsubst %,$(B)/tests/%.o,gpu_host/test_cuda_rows gpu_host/checked runner)
$(MOCKED): $(MOCK_HOST) $(LIB)
	$(call link,-lstdc++)

# The kernels for devices: one image a file with code for every architecture, all of them in one object
# that stands before the library. What nvcc does not know is left out; PTX is for cards between and to come.
NVCC     ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null) \
              $(wildcard /usr/local/cuda/bin/nvcc))
# Asked once, and only where it is wanted.
NVCC_LISTS = $(if $(NVCC),$(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code 2>/dev/null)))
NVCC_KNOWS = $(eval NVCC_KNOWS := $(NVCC_LISTS))$(NVCC_KNOWS)
ifeq ($(origin CUDA_ARCHS),undefined)
CUDA_ARCHS = $(foreach a,80 86 89 90a 100 120,$(if $(filter $(a:%a=%),$(NVCC_KNOWS)),$(a)))
CUDA_PTX   = $(sort 90 $(lastword $(subst 90a,90,$(CUDA_ARCHS))))
endif
NVCCFLAGS  = -std=c++17 -O3 -Iinclude -Isrc --threads 0 $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
             $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))
NVCC_VERSION = $(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1*1000+\2*10/p')
CUDA_FATBINS := $(patsubst src/kernels/cuda/%.cu,$(B)/cuda/%.fatbin,$(CUDA_SRC))
.PHONY: FORCE cuda cuda-programs cuda-test-programs cuda-tests cuda-bundle test-cuda
$(B)/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCCFLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCCFLAGS)' >$@
$(B)/cuda/%.fatbin: src/kernels/cuda/%.cu $(B)/cuda/flags
	$(call say,NVCC,$@)
	$(Q)$(NVCC) $(NVCCFLAGS) -MMD -MP -MT $@ -MF $(@:.fatbin=.d) -fatbin $< -o $@
$(B)/cuda/cuda_image.o: src/kernels/cuda/cuda_image.c $(CUDA_FATBINS)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -DCUDA_IMAGES='$(patsubst %.fatbin,X(%),$(notdir $(CUDA_FATBINS)))' -DCUDA_IMAGE_DIR='"$(@D)"' \
	  -DCUDA_TOOLKIT='($(NVCC_VERSION))' -DCUDA_ARCHS='"$(strip $(CUDA_ARCHS) $(CUDA_PTX:%=ptx%))"' -MMD -MP -c $< -o $@
CUDA_TESTS := $(patsubst $(B)/tests/%,$(B)/cuda/tests/%,$(GPU_TESTS) $(B)/tests/golden/test_golden)
$(B)/cuda/tests/golden/test_golden: $(B)/tests/golden/golden.o
$(CUDA_TESTS): $(B)/cuda/tests/%: $(B)/tests/%.o $(B)/tests/runner.o $(GPU_HOST) $(B)/cuda/cuda_image.o $(LIB)
	$(call link,-lstdc++)
$(B)/cuda/bin/card: $(B)/tests/gpu_host/card.o $(B)/cuda/cuda_image.o $(LIB)
	$(call link)
define with_nvcc
	@[ -n "$(NVCC)" ] || { echo "make $@: no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda; install NVIDIA's CUDA toolkit" \
	  "(12.4 or later), or say NVCC=/where/it/is/nvcc"; exit 1; }
	+@$(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell getconf _NPROCESSORS_ONLN)) VARIANT=$(VARIANT) $(1)
endef
cuda-programs: $(CUDA_PROGRAMS)
cuda-test-programs: $(CUDA_TESTS) $(B)/cuda/bin/card
cuda:
	$(call with_nvcc,cuda-programs)
	@for p in $(PROGRAMS); do ln -sf $(B)/cuda/bin/$$p $$p; done
	@echo "ds4 $(COMMIT): $(ARCH), CUDA kernels for $(CUDA_ARCHS)$(if $(CUDA_PTX), and later cards); built: $(PROGRAMS)"
cuda-tests:
	$(call with_nvcc,cuda-test-programs)
# What bench/gpu.sh runs, for a machine with a card and nothing to build with.
cuda-bundle:
	$(call with_nvcc,cuda-test-programs $(filter %/ds4 %/ds4-bench %/ds4-gguf,$(CUDA_PROGRAMS)))
	@tools/cuda_bundle.sh $(B)/cuda
test-cuda: cuda-tests
	@tools/test_cuda.sh $(B)/cuda

# ---- running tests ------------------------------------------------------------

$(REPLAYS): $(B)/tests/fuzz/%_replay: $(B)/tests/fuzz/%.o $(B)/tests/fuzz/replay.o $(LIB)
	$(call link,$(NET_LIBS))
$(FUZZERS): $(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(LIB)
	$(call link,-fsanitize=fuzzer $(NET_LIBS))
$(B)/tests/%.o: EXTRA_CFLAGS += -Itests

tests: $(TESTS) $(REPLAYS) $(PROGRAMS:%=$(B)/bin/%) $(FAR) $(patsubst %,$(B)/bin/%,ds4-server-scripted bench-compare bench-ds4) \
       $(if $(filter release asan,$(VARIANT)),$(MOCKED))
test:
	@tools/deps.sh test
	@$(MAKE) --no-print-directory programs tests
	@tools/run_tests.sh $(B)
asan tsan:
	@$(MAKE) --no-print-directory VARIANT=$@ tests
	@DS4_TEST_SECONDS=$${DS4_TEST_SECONDS:-1800} tools/run_tests.sh build/$@
fuzz:
	@tools/deps.sh --check fuzz
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzzers
	@tools/run_fuzz.sh build/fuzz $(FUZZ_SECONDS)
.PHONY: fuzzers
fuzzers: $(FUZZERS)

layers:
	@tools/layers.sh

# ---- measuring ----------------------------------------------------------------

# Inner loops alone, GB/s per type and instruction set.
.PHONY: bench-kernels bench-tokenizer bench-pool
$(B)/tests/bench/bench_kernels $(B)/tests/bench/bench_tokenizer $(B)/tests/bench/bench_pool: %: %.o $(LIB)
	$(call link)
bench-kernels: $(B)/tests/bench/bench_kernels
	@$<

# make bench: this engine beside a peer, each behind its own driver (bench/README.md).
.PHONY: bench
BENCH_PROGRAMS := $(B)/bin/bench-compare $(B)/bin/bench-ds4
ifeq ($(SYSTEM),Linux)
BENCH_PROGRAMS += $(B)/bin/bench-llama
endif
$(B)/bin/bench-compare: $(patsubst %,$(B)/bench/%.o,compare limit process report rows) $(LIB)
$(B)/bin/bench-ds4: $(B)/bench/driver_ds4.o $(B)/bench/driver.o $(LIB)
$(B)/bin/bench-llama: $(B)/bench/peers/driver_llama.o $(B)/bench/peers/twin.o $(B)/bench/driver.o $(LIB)
# The peer's libraries call these two functions of the program. No others: names
# such as gguf_find_tensor exist there too.
$(B)/bin/bench-llama: LDFLAGS += -Wl,--export-dynamic-symbol=mmap -Wl,--export-dynamic-symbol=ggml_backend_tensor_alloc
$(BENCH_PROGRAMS):
	$(call link)
bench:
	@$(MAKE) --no-print-directory programs $(BENCH_PROGRAMS)
	@bench/run.sh

# MB/s over any text: make bench-tokenizer BENCH_TEXT="FILE..."
BENCH_TEXT ?= tests/data/text-golden.jsonl src/text/chat.c src/text/unicode_table.c
bench-tokenizer: $(B)/tests/bench/bench_tokenizer
	@$< $(BENCH_TEXT)

# The thread pool, also beside a process that keeps a core busy.
bench-pool: $(B)/tests/bench/bench_pool
	@$< 0 && $< 1

# ---- a machine ----------------------------------------------------------------

deps:
	tools/deps.sh test
demo:
	@tools/deps.sh
	@$(MAKE) --no-print-directory programs
	./ds4 --nothink -p "What is ds4?"

# What make cuda built is installed with PROGRAMS_OF=cuda/bin.
PROGRAMS_OF ?= bin
install: $(if $(filter bin,$(PROGRAMS_OF)),programs)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/ds4
	install -m 755 $(PROGRAMS:%=build/release/$(PROGRAMS_OF)/%) $(DESTDIR)$(PREFIX)/bin
	install -m 644 models/tiny/ds4-tiny.gguf models/text/persuasion.txt dist/ds4-server.service $(DESTDIR)$(PREFIX)/share/ds4
clean:
	rm -rf build $(PROGRAMS)
help:
	@sed -n '/^#   make/s/^#   //p' Makefile

-include $(shell find $(B) -name '*.d' 2>/dev/null)
