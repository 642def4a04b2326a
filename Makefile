# stream_agg: stream processing inside PostgreSQL
EXTENSION = stream_agg
MODULE_big = stream_agg
DATA = src/stream_agg--1.0.sql
DOCS =
PGFILEDESC = "stream_agg - micro-batch stream processing of Kafka topics"

SOURCES = $(sort $(wildcard src/*.c src/*/*.c))
CXX_SOURCES = $(sort $(wildcard src/*/*.cpp))
OBJS = $(SOURCES:.c=.o) $(CXX_SOURCES:.cpp=.o)

REGRESS = install tumble sources streams errors privileges

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# The server's headers are system headers: their warnings are not ours.
PG_CPPFLAGS = -Isrc -isystem $(shell $(PG_CONFIG) --includedir-server) \
	'-DPGDLLEXPORT=__attribute__((visibility("default")))'
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare -fvisibility=hidden
PG_CXXFLAGS = -std=c++17 -Wall -Wextra -fvisibility=hidden \
	-fvisibility-inlines-hidden -fno-exceptions -fno-rtti
SHLIB_LINK = -lrdkafka -lsimdjson -lstdc++ -Wl,--exclude-libs,ALL

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

# The bitcode rule does not see PG_CXXFLAGS.
BITCODE_CXXFLAGS += -std=c++17

# Header dependencies, written beside each object; bitcode, which has the same,
# must not overwrite them.
CPPFLAGS_ONLY := $(CPPFLAGS)
override CPPFLAGS += -MMD -MP
BITCODE_CFLAGS += -MF /dev/null
BITCODE_CXXFLAGS += -MF /dev/null
$(OBJS:.o=.bc): %.bc: %.o
-include $(OBJS:.o=.d)
clean: clean-deps
.PHONY: clean-deps
clean-deps:
	rm -f $(OBJS:.o=.d) $(OBJS:.o=.bc)

# What the tests need is in test/; see "make help".
.PHONY: help deps test demo bench check-layout check-syntax print-regress
help:
	@echo 'make               build the library'
	@echo 'make install       install it into the server of PG_CONFIG'
	@echo 'make deps          install what building and testing need (apt)'
	@echo 'make test          build, install, run every test'
	@echo 'make demo [KEEP=1] the README example, live; KEEP=1 leaves it running'
	@echo 'make bench [BROKERS=host:port] [RECORDS=n]  records per second'

deps:
	test/deps
test:
	test/run
demo:
	KEEP=$(KEEP) test/demo
bench:
	BROKERS=$(BROKERS) RECORDS=$(RECORDS) test/bench
check-layout:
	test/check_layout
print-regress:
	@echo $(REGRESS)

# Warnings only: nothing is written.
check-syntax:
	@for file in $(SOURCES); do \
		$(CC) $(CFLAGS) $(CPPFLAGS_ONLY) -fsyntax-only $$file || exit 1; done
	@for file in $(CXX_SOURCES); do \
		$(CXX) $(CXXFLAGS) $(CPPFLAGS_ONLY) -fsyntax-only $$file || exit 1; done

export WERROR PG_CONFIG
