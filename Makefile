# stream_agg: stream processing inside PostgreSQL
EXTENSION = stream_agg
MODULE_big = stream_agg
DATA = src/stream_agg--1.0.sql
DOCS = $(sort $(wildcard doc/*.md))
# for libraries that bring kinds of sources or sinks: #include "extension/stream_agg/kinds.h"
HEADERS = src/kinds.h src/source.h src/sink.h
PGFILEDESC = "stream_agg - micro-batch stream processing of Kafka topics"

SOURCES = $(sort $(wildcard src/*.c src/*/*.c src/*/*/*.c))
CXX_SOURCES = $(sort $(wildcard src/*/*/*.cpp))
# "make FAILPOINTS=1" after "make clean": a library for the fault tests, see src/failpoint.h
FAILPOINT_SOURCES = src/failpoint.c src/execute/store/store_audit.c src/control/failpoint_audit.c
ifdef FAILPOINTS
FAILPOINT_CPPFLAGS = -DSAGG_FAILPOINTS
else
SOURCES := $(filter-out $(FAILPOINT_SOURCES),$(SOURCES))
endif
OBJS = $(SOURCES:.c=.o) $(CXX_SOURCES:.cpp=.o)

REGRESS = install tumble sessions sources rate topics formats streams hop calendar date_trunc first_last top_n errors watermarks privileges

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# The server's headers are system headers: their warnings are not ours.
PG_CPPFLAGS = -Isrc $(FAILPOINT_CPPFLAGS) -isystem $(shell $(PG_CONFIG) --includedir-server) \
	'-DPGDLLEXPORT=__attribute__((visibility("default")))'
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare -fvisibility=hidden
PG_CXXFLAGS = -std=c++17 -Wall -Wextra -fvisibility=hidden \
	-fvisibility-inlines-hidden -fno-exceptions -fno-rtti
SHLIB_LINK = -lrdkafka -lcurl -lsimdjson -lprotobuf -lstdc++ -pthread -Wl,--exclude-libs,ALL \
	-Wl,--version-script=src/exports.map

# PGXS gives options of one's own to C alone
PG_CXXFLAGS += $(COPT)

# clang is given the server's options, which are those of its own compiler
ifneq (,$(findstring clang,$(CC)))
PG_CFLAGS += -Wno-ignored-optimization-argument -Wno-unknown-warning-option
PG_CXXFLAGS += -Wno-ignored-optimization-argument -Wno-unknown-warning-option
endif

ifdef WERROR
PG_CFLAGS += -Werror
PG_CXXFLAGS += -Werror
endif

include $(PGXS)

# beside the pages of other extensions, which may have these names, too
docmoduledir = extension/stream_agg
# PGXS looks for them in a folder doc/ there
uninstall: uninstall-doc
.PHONY: uninstall-doc
uninstall-doc:
	rm -f $(addprefix '$(DESTDIR)$(docdir)/$(docmoduledir)'/, $(notdir $(DOCS)))

# The bitcode rule does not see PG_CXXFLAGS.
BITCODE_CXXFLAGS += -std=c++17

# Header dependencies, written beside each object; those of bitcode in files of
# their own, or an object would lose its own when bitcode is built after it.
DEPS = -MMD -MP
override CFLAGS += $(DEPS)
override CXXFLAGS += $(DEPS)
BITCODE_CFLAGS += $(DEPS) -MF $(@:.bc=.bc.d)
BITCODE_CXXFLAGS += $(DEPS) -MF $(@:.bc=.bc.d)
-include $(OBJS:.o=.d) $(OBJS:.o=.bc.d)
clean: clean-deps
.PHONY: clean-deps
clean-deps:
	rm -f $(OBJS:.o=.d) $(OBJS:.o=.bc.d) $(OBJS:.o=.bc) \
		$(FAILPOINT_SOURCES:.c=.o) $(FAILPOINT_SOURCES:.c=.d)

# What the tests need is in test/; see "make help".
.PHONY: help deps test fuzz demo bench bloat soak check-cassert check-asan \
	check-valgrind check-layout check-syntax print-regress
help:
	@echo 'make               build the library'
	@echo 'make FAILPOINTS=1  after make clean: a library with failpoints, for tests'
	@echo 'make install       install it into the server of PG_CONFIG'
	@echo 'make deps          install what building and testing need (apt)'
	@echo 'make test          build, install, run every test'
	@echo 'make fuzz [RECORDS=n] [BLOBS=n] [GROUPS=n] [SEED=n]  random records, damaged state and random streams, many'
	@echo 'make check-cassert  tests on a server with assertions'
	@echo 'make check-asan     tests of a library with AddressSanitizer and UBSan'
	@echo 'make check-valgrind tests under valgrind'
	@echo 'make demo [KEEP=1] [DEMO=rate]  the README example, live, or one without Kafka; KEEP=1 leaves it running'
	@echo 'make bench [WHAT=hop] [BROKERS=host:port] [RECORDS=n]  records per second'
	@echo 'make bloat [MINUTES=n] [RATE=n]             sizes of sink and logs over time'
	@echo 'make soak [MINUTES=n] [RATE=n] [SEED=n]     a nemesis on a real Kafka'

deps:
	test/deps
test:
	test/run
fuzz:
	FUZZ_RECORDS=$(or $(RECORDS),1000000) FUZZ_BLOBS=$(or $(BLOBS),100000) RANDOM_GROUPS=$(or $(GROUPS),20) \
		$(if $(SEED),STREAM_AGG_SEED=$(SEED)) \
		test/run format_fuzz.pl state_stored_bytes.pl random_equation.pl
check-cassert check-asan check-valgrind:
	test/checked $(@:check-%=%)
demo:
	KEEP=$(KEEP) DEMO=$(DEMO) test/demo
bench:
	BROKERS=$(BROKERS) RECORDS=$(RECORDS) test/bench $(WHAT)
bloat:
	BROKERS=$(BROKERS) MINUTES=$(MINUTES) RATE=$(RATE) test/bloat
soak:
	MINUTES=$(MINUTES) RATE=$(RATE) SEED=$(SEED) test/soak
check-layout:
	test/check_layout
print-regress:
	@echo $(REGRESS)

# Warnings only: nothing is written.
check-syntax:
	@for file in $(SOURCES); do \
		$(CC) $(filter-out $(DEPS),$(CFLAGS)) $(CPPFLAGS) -fsyntax-only $$file || exit 1; done
	@for file in $(CXX_SOURCES); do \
		$(CXX) $(filter-out $(DEPS),$(CXXFLAGS)) $(CPPFLAGS) -fsyntax-only $$file || exit 1; done

export WERROR PG_CONFIG
